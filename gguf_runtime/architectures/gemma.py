"""Gemma 1 (Gemma ThreadPool 2024), 2 (2024) and 3 (2025)."""

from __future__ import annotations

from collections.abc import Callable

from ..operations import Value
from .layers import Layers


def gemma(m: Layers) -> None:
    """As llama, but with an embedding scaled by √n_embd, a GELU gate, and halves that rotate."""
    rope = m.rope_frequencies("halves")
    x = m.pre_norm(m.embed(m.n_embd**0.5), lambda h: m.attention(h, rope), lambda h: m.ffn(h, "gelu"))
    m.output(x)


def gemma2(m: Layers) -> None:
    """Norms before and after each block, windows in every second layer, soft caps of attention and of logits."""
    rope = m.rope_frequencies("halves")
    softcap, scale = m.w.number("attn_logit_softcapping", 50.0), _scale(m, 46)

    def attention(h: Value) -> Value:
        return m.attention(h, rope, scale=scale, window=m.window(2, size=4096), softcap=softcap)

    m.output(_sandwich(m, attention), softcap=m.w.number("final_logit_softcapping", 30.0))


def gemma3(m: Layers) -> None:
    """As gemma2, with norms of queries and keys instead of soft caps; five of six layers have windows."""
    m.output(_layers_3(m), softcap=m.w.number("final_logit_softcapping", 0.0))


def gemma_embedding(m: Layers) -> None:
    """Gemma 3 without a mask; windows are to both sides."""
    m.causal = False
    m.encoded(_layers_3(m), norm="output_norm")


def _layers_3(m: Layers) -> Value:
    full = m.rope_frequencies("halves")
    local = m.rope_frequencies("halves", base=m.w.number("rope.freq_base_swa", 10000.0), scaled=False)
    scale = _scale(m, 62)

    def attention(h: Value) -> Value:
        window = m.window(6)
        return m.attention(h, local if window else full, qk_norm=True, scale=scale, window=window)

    return _sandwich(m, attention)


def _sandwich(m: Layers, attention: Callable[[Value], Value]) -> Value:
    """Layers whose norms stand before and after each block."""
    x = m.embed(m.n_embd**0.5)
    for _ in m.layers():
        x = m.add(x, m.norm(attention(m.norm(x, "attn_norm")), "post_attention_norm"))
        x = m.add(x, m.norm(m.ffn(m.norm(x, "ffn_norm"), "gelu"), "post_ffw_norm"))
    return x


def _scale(m: Layers, n_layer_27b: int) -> float:
    """Of attention; the models of 27B, which only their layer count tells, divide by another size than a head's."""
    width = m.n_embd // m.n_head if m.n_layer == n_layer_27b else m.head_dim
    return float(width**-0.5)

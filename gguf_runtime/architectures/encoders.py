"""Encoders with norms before each block: ModernBERT (Warner et al. 2024), NeoBERT, EuroBERT (both 2025), Llama's."""

from __future__ import annotations

from typing import Literal

from ..operations import Value
from .hparams import ModelError
from .layers import Layers


def modern_bert(m: Layers) -> None:
    """Windows to both sides but in every third layer, and RoPE with a base of its own there; the first norm is none."""
    m.causal = False
    full = m.rope_frequencies("halves")
    local = m.rope_frequencies("halves", base=m.w.number("rope.freq_base_swa", 0.0))
    kind = m.w.text("hidden_activation", "gelu")
    if kind not in ("gelu", "silu"):
        raise ModelError(f"{m.w.prefix}hidden_activation is {kind!r}; ggrun knows gelu and silu here")
    x = m.norm_embedding(m.embed())
    for _ in m.layers():
        h = m.norm(x, "attn_norm") if m.has("attn_norm") else x
        window = m.window(3, full_first=True)
        x = m.add(x, m.attention(h, local if window else full, window=window))
        x = m.add(x, m.ffn(m.norm(x, "ffn_norm"), kind))
    m.encoded(x, norm="output_norm")


def neo_bert(m: Layers) -> None:
    m.encoded(_layers(m, "pairs"), norm="enc.output_norm")


def eurobert(m: Layers) -> None:
    m.encoded(_layers(m, "halves"), norm="output_norm")


def llama_embed(m: Layers) -> None:
    m.encoded(_layers(m, "pairs"), norm="output_norm")


def _layers(m: Layers, layout: Literal["pairs", "halves"]) -> Value:
    """Llama's layers without a mask."""
    m.causal = False
    rope = m.rope_frequencies(layout)
    return m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.ffn)

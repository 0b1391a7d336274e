"""Qwen 2, 2.5 (Yang et al. 2024) and 3 (Yang et al. 2025), dense and with experts."""

from __future__ import annotations

from .layers import Layers


def qwen2(m: Layers) -> None:
    """As llama, but with biases of queries, keys and values, and halves that rotate."""
    _layers(m, qk_norm=False)


def qwen3(m: Layers) -> None:
    """As qwen2, but with norms of each head of queries and keys."""
    _layers(m, qk_norm=True)


def qwen2moe(m: Layers) -> None:
    _layers(m, qk_norm=False)


def qwen3moe(m: Layers) -> None:
    _layers(m, qk_norm=True)


def _layers(m: Layers, qk_norm: bool) -> None:
    rope = m.rope_frequencies("halves")
    x = m.embed()
    for _ in m.layers():
        x = m.add(x, m.attention(m.norm(x, "attn_norm"), rope, qk_norm=qk_norm))
        h = m.norm(x, "ffn_norm")
        if not m.n_expert:
            x = m.add(x, m.ffn(h))
            continue
        y = m.experts(h, m.route(h, normalise=qk_norm))
        if m.has("ffn_gate_inp_shexp"):
            y = m.add(y, m.shared_expert(h))
        x = m.add(x, y)
    m.output(x)

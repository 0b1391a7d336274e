"""DeciLM and Llama-Nemotron 51B to 253B (NVIDIA 2024, 2025): a search left out what a layer can do without."""

from __future__ import annotations

from .layers import Layers


def deci(m: Layers) -> None:
    """As llama; layers may have a matrix instead of attention, or neither, and may lack the feed-forward."""
    scale = m.w.number("attention.scale", 0.0)
    rope = m.rope_frequencies("pairs")
    x = m.embed()
    for _ in m.layers():
        if not m.n_ff:  # such layers have no attention either
            continue
        if m.n_head:
            h = m.norm(x, "attn_norm")
            x = m.add(x, m.attention(h, rope, scale=scale) if m.n_head_kv else m.project(h))
        x = m.add(x, m.ffn(m.norm(x, "ffn_norm")))
    m.output(x)

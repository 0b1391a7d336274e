"""Falcon (Almazrouei et al. 2023)."""

from __future__ import annotations

from .layers import Layers


def falcon(m: Layers) -> None:
    """Attention and feed-forward side by side, on one LayerNorm; in the larger models each has its own."""
    rope = m.rope_frequencies("halves")
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        y = m.attention(m.norm(x, "attn_norm_2") if m.has("attn_norm_2") else h, rope)
        x = m.add(m.add(x, y), m.ffn(h, "gelu", gated=False))
    m.output(x)

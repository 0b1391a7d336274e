"""Command R (Cohere 2024) and R7B, A (Cohere 2025)."""

from __future__ import annotations

from collections.abc import Callable

from ..operations import Value
from .layers import Layers


def command_r(m: Layers) -> None:
    """Attention and feed-forward side by side, on one LayerNorm; norms of queries and keys in the largest."""
    rope = m.rope_frequencies("pairs")
    _layers(m, lambda h: m.attention(h, rope, qk_norm=m.has("attn_q_norm")))


def cohere2(m: Layers) -> None:
    """Three of four layers have windows and RoPE, the others see all and know no positions."""
    rope = m.rope_frequencies("pairs", base=m.w.number("rope.freq_base_swa", 0.0))

    def attention(h: Value) -> Value:
        window = m.window(4)
        return m.attention(h, rope if window else None, window=window)

    _layers(m, attention)


def _layers(m: Layers, attention: Callable[[Value], Value]) -> None:
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(m.add(x, attention(h)), m.ffn(h))
    m.output(x, scale=m.w.number("logit_scale", 0.0) or 1.0)

"""Command R (Cohere 2024) and R7B, A (Cohere 2025)."""

from __future__ import annotations

from collections.abc import Callable

from ..operations import Scale, Value
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


def cohere2moe(m: Layers) -> None:
    """As cohere2, whose full layers come first here, with experts; shared ones and they are averaged."""
    rope = m.rope_frequencies("pairs", base=m.w.number("rope.freq_base_swa", 0.0))

    def attention(h: Value) -> Value:
        window = m.window(4, full_first=True)
        return m.attention(h, rope if window or not m.has("ffn_gate_inp") else None, window=window)

    def feed_forward(h: Value) -> Value:
        y = m.moe(h, gating="sigmoid")
        return m.graph(Scale(y, 0.5)) if m.has("ffn_up_shexp") else y

    _layers(m, attention, feed_forward)


def _layers(
    m: Layers, attention: Callable[[Value], Value], feed_forward: Callable[[Value], Value] | None = None
) -> None:
    feed_forward = feed_forward or m.ffn
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(m.add(x, attention(h)), feed_forward(h))
    m.output(x, scale=m.w.number("logit_scale", 0.0) or 1.0)

"""Maple."""

from __future__ import annotations

from ..operations import Value
from .layers import Layers


def maple(m: Layers) -> None:
    """Layers with windows have RoPE, those that see all do not; experts with a clamped SwiGLU."""
    rope = m.rope_frequencies("halves", base=m.w.number("rope.freq_base_swa", 0.0))

    def attention(h: Value) -> Value:
        window = m.window()
        return m.attention(h, rope if window else None, qk_norm=True, window=window)

    def experts(h: Value) -> Value:
        return m.experts(h, m.route(h), m.clamped_glu("swiglu_clamp_exp"))

    m.output(m.pre_norm(m.embed(), attention, experts))

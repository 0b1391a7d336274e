"""Spark 2.5 (iFlytek 2026)."""

from __future__ import annotations

from ..operations import Value
from .layers import Layers


def spark2_5(m: Layers) -> None:
    """Attention with a gate for each head, windows in some layers, and a GELU gate."""
    n_rot = m.w.count("rope.dimension_count", m.head_dim)
    full = m.rope_frequencies("halves", n_rot=n_rot)
    base, n_rot = m.w.number("rope.freq_base_swa", 0.0), m.w.count("rope.dimension_count_swa", n_rot)
    local = m.rope_frequencies("halves", n_rot=n_rot, base=base)

    def attention(h: Value) -> Value:
        window = m.window()
        q, k, v = m.qkv(h)
        q, k = m.rotate(q, k, local if window else full)
        return m.project(m.gate(m.attend(q, k, v, window=window), h))

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.ffn(h, "gelu")))

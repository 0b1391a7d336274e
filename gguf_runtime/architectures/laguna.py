"""Laguna (Poolside 2026)."""

from __future__ import annotations

from ..operations import Value
from .layers import Layers


def laguna(m: Layers) -> None:
    """Attention with a gate and norms of queries and keys; experts as DeepSeek-V3's. Layers with windows have another
    RoPE, which turns more dimensions and is not stretched."""
    full = m.rope_frequencies("halves")
    base, n_rot = m.w.number("rope.freq_base_swa", 0.0), m.w.count("rope.dimension_count_swa", 0, least=0)
    local = m.rope_frequencies("halves", base=base, n_rot=n_rot, scaled=False)

    def attention(h: Value) -> Value:
        window = m.window(4, full_first=True)
        q, k, v = m.qkv(h)
        q, k = m.qk_norm(q, k)
        q, k = m.rotate(q, k, local if window else full)
        return m.project(m.gate(m.attend(q, k, v, window=window), h, "softplus"))

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.moe(h, gating="sigmoid")))

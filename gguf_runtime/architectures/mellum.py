"""Mellum 2 (JetBrains 2026)."""

from __future__ import annotations

from ..operations import Value
from .layers import Layers


def mellum(m: Layers) -> None:
    """As qwen3moe; three of four layers have windows, where RoPE is not stretched."""
    full = m.rope_frequencies("halves")
    local = m.rope_frequencies("halves", scaled=False)

    def attention(h: Value) -> Value:
        window = m.window(4)
        return m.attention(h, local if window else full, qk_norm=True, window=window)

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.moe(h, normalise=True)))

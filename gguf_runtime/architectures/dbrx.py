"""DBRX (Databricks 2024)."""

from __future__ import annotations

from .layers import Layers


def dbrx(m: Layers) -> None:
    """Experts in every layer, LayerNorms without biases, clamped queries, keys and values."""
    rope = m.rope_frequencies("halves")
    x = m.pre_norm(
        m.embed(), lambda h: m.attention(h, rope), lambda h: m.moe(h, normalise=True), second="attn_output_norm"
    )
    m.output(x)

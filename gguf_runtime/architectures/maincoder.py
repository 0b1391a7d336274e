"""Maincoder (2025)."""

from __future__ import annotations

from ..operations import Value
from .layers import Layers


def maincoder(m: Layers) -> None:
    """As llama, with norms of queries and keys after they were rotated."""
    rope = m.rope_frequencies("pairs")

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        q, k = m.qk_norm(*m.rotate(q, k, rope))
        return m.project(m.attend(q, k, v))

    m.output(m.pre_norm(m.embed(), attention, m.ffn))

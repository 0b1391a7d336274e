"""OpenELM (Mehta et al. 2024)."""

from __future__ import annotations

from .layers import Layers


def openelm(m: Layers) -> None:
    """Later layers have more heads and wider feed-forwards; norms of queries and keys."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=True), m.ffn))

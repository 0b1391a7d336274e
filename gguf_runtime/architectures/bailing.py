"""Ling and Ring (Ant Group 2025)."""

from __future__ import annotations

from .layers import Layers


def bailingmoe(m: Layers) -> None:
    """As llama, with experts, and some for every token."""
    rope, normalise = m.rope_frequencies("pairs"), m.w.flag("expert_weights_norm")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), lambda h: m.moe(h, normalise=normalise)))


def bailingmoe2(m: Layers) -> None:
    """Norms of queries and keys, of which a part rotates; experts as DeepSeek-V3's."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=True), m.moe))

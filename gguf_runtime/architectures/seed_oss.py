"""Seed-OSS (ByteDance 2025)."""

from __future__ import annotations

from .layers import Layers


def seed_oss(m: Layers) -> None:
    """As llama, with biases of queries, keys and values, and halves that rotate."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.ffn, second="post_attention_norm"))

"""Hunyuan (Tencent 2024, 2025): dense, with experts, and the text part of Hunyuan-VL."""

from __future__ import annotations

import numpy as np

from ..operations import Value
from .layers import Layers


def hunyuan_dense(m: Layers) -> None:
    """As llama, with norms of queries and keys after they were rotated."""
    # NTK-aware: the base grows as if there were alpha times the positions
    alpha, width = m.w.number("rope.scaling.alpha", 0.0, at_least=0), m.head_dim
    base = m.w.number("rope.freq_base", 10000.0) * ((alpha or 1.0) ** (width / (width - 2)))
    rope = m.rope_frequencies("halves", base=base)
    if sections := m.w.integers("rope.dimension_sections"):
        # positions have several axes, all the same for text but the last one of four, which is 0 there
        axes = np.arange(len(rope.frequencies)) % max(sum(sections), 1)
        rope = rope._replace(frequencies=np.where(axes < sum(sections[:3]), rope.frequencies, 0.0))

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        q, k = m.qk_norm(*m.rotate(q, k, rope))
        return m.project(m.attend(q, k, v))

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.moe(h, normalise=True)))


hunyuan_moe = hunyuan_vl = hunyuan_dense


def hy_v3(m: Layers) -> None:
    """Norms of queries and keys before they are rotated; experts as DeepSeek-V3's."""
    rope = m.rope_frequencies("halves")
    x = m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=True), lambda h: m.moe(h, gating="sigmoid"))
    m.output(x)

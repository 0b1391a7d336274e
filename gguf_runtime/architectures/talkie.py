"""Talkie (2026)."""

from __future__ import annotations

from ..operations import Scale, Value
from .layers import Layers


def talkie(m: Layers) -> None:
    """Norms without weights; every layer adds a part of the normed embedding. Queries have a scale for each head."""
    rope = m.rope_frequencies("halves")

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        q, k = m.rotate(q, k, rope)
        q = m.graph(Scale(m.bare_norm(q), weight=m.tensor("attn_q_norm.weight", q.heads, 1)))
        return m.project(m.attend(q, m.bare_norm(k), v))

    x = first = m.bare_norm(m.embed())
    for _ in m.layers():
        x = m.add(x, attention(m.bare_norm(x)))
        x = m.add(x, m.ffn(m.bare_norm(x)))
        x = m.add(x, m.graph(Scale(first, weight=m.tensor("layer_output_scale.weight", 1))))
    m.output(m.bare_norm(x), norm="", scale=m.w.number("logit_scale"))

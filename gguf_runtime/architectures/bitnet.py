"""BitNet b1.58 (Ma et al. 2024): matrices of −1, 0 and 1, each with a scale."""

from __future__ import annotations

from ..operations import Value, View
from .layers import Layers


def bitnet(m: Layers) -> None:
    """As llama, with a norm more in each block, before its last matrix."""
    rope = m.rope_frequencies("halves")

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        q, k = m.rotate(q, k, rope)
        o = m.attend(q, k, v)
        return m.project(m.norm(m.graph(View(o, 1)), "attn_sub_norm"))

    def feed_forward(h: Value) -> Value:
        y = m.activate(m.linear(h, "ffn_up", m.n_ff), "silu", m.linear(h, "ffn_gate", m.n_ff))
        return m.linear(m.norm(y, "ffn_sub_norm"), "ffn_down", m.n_embd)

    m.output(m.pre_norm(m.embed(), attention, feed_forward))

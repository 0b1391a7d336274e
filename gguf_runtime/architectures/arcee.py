"""Arcee's models: AFM (2025) and Trinity (2025)."""

from __future__ import annotations

from .layers import Layers


def arcee(m: Layers) -> None:
    """As llama, but with the square of a ReLU and no gate."""
    rope = m.rope_frequencies("pairs")
    x = m.pre_norm(m.embed(), lambda h: m.attention(h, rope), lambda h: m.ffn(h, "squared_relu", gated=False))
    m.output(x)


def afmoe(m: Layers) -> None:
    """Norms before and after each block; attention is gated, and every fourth layer knows no positions."""
    rope = m.rope_frequencies("halves")
    x = m.embed(m.n_embd**0.5)
    for i in m.layers():
        h = m.norm(x, "attn_norm")
        q, k, v = m.qkv(h)
        q, k = m.qk_norm(q, k)
        q, k = m.rotate(q, k, None if i % 4 == 3 else rope)
        y = m.project(m.gate(m.attend(q, k, v, window=m.window(4)), h))
        x = m.add(x, m.norm(y, "post_attention_norm"))
        x = m.add(x, m.norm(m.moe(m.norm(x, "ffn_norm"), gating="sigmoid"), "post_ffw_norm"))
    m.output(x)

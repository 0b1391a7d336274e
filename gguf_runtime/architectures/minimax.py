"""MiniMax-01 (MiniMax 2025): lightning attention, and softmax attention in every few layers; experts."""

from __future__ import annotations

import numpy as np

from ..operations import Activate, Gate, Recurrence, Slice, Value, View
from .layers import Layers


def minimax_01(m: Layers) -> None:
    """What is added to a block's result is the block's normed input, scaled."""
    scale, rope = m.w.number("residual_scale"), m.rope_frequencies("halves")
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(_lightning(m, h) if m.recurrent(8) else m.attention(h, rope), h, scale)
        h = m.norm(x, "ffn_norm")
        x = m.add(m.experts(h, m.route(h)), h, scale)
    m.output(x)


def _lightning(m: Layers, h: Value) -> Value:
    """Lightning attention (Qin et al. 2024): linear, without a softmax; each head forgets at a rate of its own."""
    heads, dim = m.n_head, m.head_dim
    qkv = m.graph(Activate(m.linear(h, "attn_qkv", 3 * heads * dim, heads), "silu"))  # q, k, v of each head
    q, k, v = (m.graph(Slice(qkv, first, first + dim)) for first in (0, dim, 2 * dim))
    slopes = 2.0 ** (-8 / heads * np.arange(1, heads + 1)) * (1 - m.i / max(m.n_layer - 1, 1) + 1e-5)
    decay = m.constant("decay", np.exp(-slopes)[:, None])
    o = m.graph(Recurrence("linear", (q, k, v), (decay,), m.new_slot(), heads, dim))
    o = m.norm(m.graph(View(o, 1)), "attn_norm_2")
    return m.project(m.graph(Gate(m.linear(h, "attn_gate", heads * dim), o, "sigmoid")))

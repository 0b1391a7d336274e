"""MiniMax-01 (MiniMax 2025), M2 (2025) and M3 (2026)."""

from __future__ import annotations

import warnings

import numpy as np

from ..operations import Activate, Gate, Recurrence, Slice, Value, View
from .layers import Layers


def minimax_01(m: Layers) -> None:
    """Lightning attention, and softmax attention in every few layers; experts.

    What is added to a block's result is the block's normed input, scaled.
    """
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


def minimax_m2(m: Layers) -> None:
    """Norms of all heads of queries as one, and of all of keys; a part of heads rotates; experts, a bias chooses."""
    rope = m.rope_frequencies("halves")

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        q, k = m.rotate(*m.qk_norm_across(q, k), rope)
        return m.project(m.attend(q, k, v))

    x = m.pre_norm(m.embed(), attention, lambda h: m.moe(h, gating=m.gating("sigmoid"), normalise=True))
    m.output(x)


def minimax_m3(m: Layers) -> None:
    """Norms of each head; feed-forwards as gpt-oss has them. Tokens see all keys."""
    key = "attention.indexer"
    seen = m.w.count(f"{key}.top_k") * m.w.count(f"{key}.block_size")
    if m.n_ctx > seen:
        warnings.warn(f"beyond {seen} tokens this model was trained to see chosen blocks; it sees all", stacklevel=2)
    m.w.ignore(f"{key}.head_count", f"{key}.key_length", f"{key}.local_blocks")
    parts = "q_proj", "k_proj", "q_norm", "k_norm"
    m.w.ignore(*(f"blk.{i}.indexer.{part}.weight" for i in range(m.n_layer) for part in parts))
    rope = m.rope_frequencies("halves")

    def glu(gate: Value, up: Value) -> Value:
        return m.graph(Gate(gate, up, "clamped_silu", 7.0))

    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=True), lambda h: m.moe(h, glu)))

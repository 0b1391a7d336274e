"""Qwen 3 Next and 3.5 (Qwen ThreadPool 2025, 2026): three layers of gated delta net, then one of gated attention."""

from __future__ import annotations

from collections.abc import Callable

from ..operations import Concat, Gate, Slice, Value, View
from .delta_net import gated_delta_net
from .hparams import ModelError
from .layers import Layers


def qwen3next(m: Layers) -> None:
    _layers(m, _delta_net_next)


def qwen35(m: Layers) -> None:
    m.w.ignore("rope.dimension_sections")  # of positions in pictures; a text's are the same in all
    _layers(m, delta_net_35)


qwen35moe = qwen35


def _layers(m: Layers, delta_net: Callable[[Layers, Value], Value]) -> None:
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(x, delta_net(m, h) if m.recurrent(4) else gated_attention(m, h))
        x = m.add(x, m.moe(m.norm(x, "post_attention_norm"), normalise=True))
    m.output(x)


def gated_attention(m: Layers, h: Value, keys: Value | None = None) -> Value:
    """attn_q gives for each head its query, then a gate of its result. keys: the only ones that tokens see."""
    n_head, n_kv, dim = m.n_head, m.n_head_kv, m.head_dim
    if not n_kv or n_head % n_kv:
        raise ModelError(f"{n_head} attention heads cannot share {n_kv} key heads")
    both = m.linear(h, "attn_q", 2 * n_head * dim, n_head)
    q, gate = (m.graph(Slice(both, first, first + dim)) for first in (0, dim))
    k, v = (m.linear(h, f"attn_{part}", n_kv * size, n_kv) for part, size in (("k", dim), ("v", m.head_dim_v)))
    q, k = m.qk_norm(q, k)
    q, k = m.rotate(q, k, m.rope_frequencies("halves"))
    return m.project(m.graph(Gate(gate, m.attend(q, k, v, keys=keys), "sigmoid")))


def delta_net_35(m: Layers, h: Value, gate: str = "silu") -> Value:
    """gate: the activation of the result's gate."""
    n_k, n_v = m.w.count("ssm.group_count"), m.w.count("ssm.time_step_rank")
    inner = m.w.count("ssm.inner_size")
    qkv = m.linear(h, "attn_qkv", 2 * n_k * m.w.count("ssm.state_size") + inner)
    z = m.linear(h, "attn_gate", inner, n_v)
    beta, alpha = (m.linear(h, f"ssm_{part}", n_v, n_v) for part in ("beta", "alpha"))
    return gated_delta_net(m, h, qkv, z, beta, alpha, tiled=True, gate=gate)


def _delta_net_next(m: Layers, h: Value) -> Value:
    """The rows of ssm_ba are, for each key head, β of its value heads, then their α."""
    n_k, n_v = m.w.count("ssm.group_count"), m.w.count("ssm.time_step_rank")
    each = n_v // n_k
    qkv, z = _qkv_z(m, h)
    both = m.linear(h, "ssm_ba", 2 * n_v, n_k)
    beta, alpha = (m.graph(View(m.graph(Slice(both, first, first + each)), n_v)) for first in (0, each))
    return gated_delta_net(m, h, qkv, z, beta, alpha, tiled=False)


def _qkv_z(m: Layers, h: Value) -> tuple[Value, Value]:
    """Queries, keys and values in a row, and gates; old files have one matrix, in which each key head has all four."""
    w = m.w
    n_k, n_v, k_dim = w.count("ssm.group_count"), w.count("ssm.time_step_rank"), w.count("ssm.state_size")
    inner = w.count("ssm.inner_size")
    if not m.has("ssm_in"):
        return m.linear(h, "attn_qkv", 2 * n_k * k_dim + inner), m.linear(h, "attn_gate", inner, n_v)
    each, all_four = inner // n_k, m.linear(h, "ssm_in", 2 * (n_k * k_dim + inner), n_k)
    ends = k_dim, 2 * k_dim, 2 * k_dim + each, 2 * k_dim + 2 * each
    q, k, v, z = (
        m.graph(View(m.graph(Slice(all_four, first, end)), 1)) for first, end in zip((0, *ends), ends, strict=False)
    )
    return m.graph(Concat(m.graph(Concat(q, k)), v)), m.graph(View(z, n_v))

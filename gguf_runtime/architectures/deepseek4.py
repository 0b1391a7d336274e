"""DeepSeek-V4 (2026)."""

from __future__ import annotations

from typing import NamedTuple

from ..operations import (
    Attention,
    BestKeys,
    HeadLinear,
    Keep,
    Linear,
    Rope,
    RopeFrequencies,
    Scale,
    Value,
    View,
)
from .hparams import ModelError
from .hyper import Streams
from .layers import Layers
from .summaries import weighted_mean


def deepseek4(m: Layers) -> None:
    """Hyper-connections; attention to a window and to summaries of what was before; experts, in the first layers
    chosen by the token itself."""
    w = m.w
    w.ignore("embedding_length_out", "attention.value_length", "attention.head_count_kv", "hash_layer_count")
    streams = Streams(m)
    plain = m.rope_frequencies("pairs", factors=False, scaled=False)
    base = w.number("attention.compress_rope_freq_base")
    stretched = m.rope_frequencies("pairs", base=base, factors=False, yarn_mu=1.0)

    x = streams.start(m.embed())
    for _ in m.layers():
        x = streams.block(x, "attn", lambda h: _attention(m, h, plain, stretched))
        x = streams.block(x, "ffn", lambda h: _experts(m, h))
    m.output(streams.end(x))


class _Summaries(NamedTuple):
    """What attention is to see beside its window."""

    slot: int | None = None
    stride: int = 0
    keys: Value | None = None


def _attention(m: Layers, h: Value, plain: RopeFrequencies, stretched: RopeFrequencies) -> Value:
    """One key, which is the value too, for all heads; what is read is turned back, and projected by groups of heads."""
    stride = m.w.count("attention.compress_ratios", layer=m.i, least=0)
    rope = stretched if stride else plain
    n_head, width = m.n_head, m.head_dim
    offset = width - 2 * len(rope.frequencies)
    if offset < 0:
        raise ModelError(f"RoPE over {2 * len(rope.frequencies)} dimensions, but a head has {width}")
    q_latent = m.norm(m.linear(h, "attn_q_a", m.w.count("attention.q_lora_rank")), "attn_q_a_norm")
    q = m.bare_norm(m.linear(q_latent, "attn_q_b", n_head * width, n_head))
    q = m.graph(Rope(q, rope, offset))
    k = m.graph(Rope(m.norm(m.linear(h, "attn_kv", width), "attn_kv_a_norm"), rope, offset))
    s = _summarise(m, h, q_latent, rope, stride) if stride else _Summaries()
    o = m.graph(
        Attention(
            q, k, None, m.i, 1, width, width**-0.5, window=m.w.count("attention.sliding_window"),
            sinks=m.tensor("attn_sinks.weight", n_head), keys=s.keys, summaries=s.slot, stride=s.stride,
        )
    )  # fmt: skip
    o = m.graph(Rope(o, rope._replace(frequencies=-rope.frequencies), offset))
    groups, rank = m.w.count("attention.output_group_count"), m.w.count("attention.output_lora_rank")
    if n_head % groups:
        raise ModelError(f"{n_head} heads make no {groups} groups")
    o = m.graph(View(o, groups))
    o = m.graph(HeadLinear(o, m.tensor("attn_output_a.weight", groups, rank, o.width)))
    return m.linear(o, "attn_output_b", m.n_embd)


def _summarise(m: Layers, h: Value, q_latent: Value, rope: RopeFrequencies, stride: int) -> _Summaries:
    """A key for each `stride` tokens; where there are many of them, an indexer finds those that matter."""
    slot = m.new_slot()
    m.graph(Keep(_compress(m, h, "attn_compressor", m.head_dim, rope, stride), None, slot))
    if not m.has("indexer.proj"):
        return _Summaries(slot, stride)
    n_head, width = m.w.count("attention.indexer.head_count"), m.w.count("attention.indexer.key_length")
    q = m.linear(q_latent, "indexer.attn_q_b", n_head * width, n_head)
    q = m.graph(Rope(q, rope, width - 2 * len(rope.frequencies)))
    k = _compress(m, h, "indexer_compressor", width, rope, stride)
    weights = m.graph(Linear(h, m.tensor("indexer.proj.weight", n_head, m.n_embd)))
    weights = m.graph(Scale(weights, (width * n_head) ** -0.5))
    n = min(m.w.count("attention.indexer.top_k"), max(m.n_ctx // stride, 1))
    return _Summaries(slot, stride, m.graph(BestKeys(q, k, weights, m.new_slot(), n, stride)))


def _compress(m: Layers, h: Value, name: str, width: int, rope: RopeFrequencies, stride: int) -> Value:
    """A mean of the last `stride` tokens, weighted in each column by a softmax, turned as the first of them.

    Where there are twice as many columns, the first half of them is of as many tokens before these.
    """
    n = m.w.shape(m.name(f"{name}_kv.weight"))[0]
    if n not in (width, 2 * width):
        raise ModelError(f"{name} makes {n} columns, but keys have {width}")
    x, scores = m.linear(h, f"{name}_kv", n), m.linear(h, f"{name}_gate", n)
    mean = weighted_mean(m, x, scores, f"{name}_ape", width, stride)
    offset = width - 2 * len(rope.frequencies)
    return m.graph(Rope(m.norm(mean, f"{name}_norm"), rope, offset, stride - 1))


def _experts(m: Layers, h: Value) -> Value:
    kind = m.clamped_glu("swiglu_clamp_exp")
    shared_kind = m.clamped_glu("swiglu_clamp_shexp" if "swiglu_clamp_shexp" in m.w else "swiglu_clamp_exp")
    if not m.has("ffn_gate_tid2eid"):
        return m.moe(h, kind, shared_kind=shared_kind)
    n_used = m.w.count("expert_used_count", layer=m.i)
    route = m.route_by(
        m.linear(h, "ffn_gate_inp", m.n_expert),
        gating=m.gating(),
        normalise=m.w.flag("expert_weights_norm"),
        experts=m.tensor("ffn_gate_tid2eid.weight", m.n_vocab, n_used),
    )
    return m.add(m.experts(h, route, kind), m.shared_expert(h, shared_kind))

"""Kimi Linear (Kimi ThreadPool 2025) and what has its layers, delta attention and latent attention: Ling 3, Kimi K3."""

from __future__ import annotations

from ..operations import Activate, Combine, Concat, Gate, Linear, Mul, RopeFrequencies, Value, View
from . import mla
from .delta_net import kimi_delta_attention, low_rank
from .layers import Layers


def kimi_linear(m: Layers) -> None:
    """Three layers of delta attention, then one of latent attention without positions."""
    m.w.ignore("rope.freq_base")

    def attention(h: Value) -> Value:
        if m.n_head_kv:
            return m.project(_latent(m, h, None))
        return kimi_delta_attention(m, h, low_rank(m, h, "ssm_g"))

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.moe(h, gating=m.gating("sigmoid"), normalise=True)))


def bailingmoe3(m: Layers) -> None:
    """Latent attention with RoPE, and a gate for each of its heads."""
    m.w.ignore("kda.safe_gate")  # the lower bound says as much
    rope = m.rope_frequencies("pairs", n_rot=m.w.count("rope.dimension_count"))

    def attention(h: Value) -> Value:
        if m.n_head_kv:
            o = _latent(m, h, rope)
            gate = m.graph(Activate(m.linear(h, "attn_gate", m.n_head, m.n_head), "sigmoid"))
            return m.project(m.graph(Mul(o, gate)))
        return kimi_delta_attention(m, h, low_rank(m, h, "ssm_g"))

    m.output(m.pre_norm(m.embed(), attention, m.moe))


def kimi_k3(m: Layers) -> None:
    """Blocks read mixtures of what the stream was before: it restarts every few layers, and those ends are kept.

    Experts work in a smaller space, and gates and values of all feed-forwards are bounded (SiTU).
    """
    w = m.w
    w.ignore("rope.freq_base", "leading_dense_block_count")
    restart = w.count("attn_res.block_size")
    ends: list[Value] = []
    x = m.embed()
    for i in m.layers():
        h = _mixture(m, [*ends, x], m.name("attn_res_score.weight"))
        y = _gated(m, m.norm(h, "attn_norm"))
        if i % restart == 0:
            ends.append(x)
            x = y
        else:
            x = m.add(x, y)
        h = m.norm(_mixture(m, [*ends, x], m.name("ffn_res_score.weight")), "ffn_norm")
        x = m.add(x, _routed(m, h) if m.has("ffn_gate_inp") else m.ffn(h, lambda gate, up: _situ(m, gate, up)))
    m.output(_mixture(m, [*ends, x], "output_res_score.weight"))


def _mixture(m: Layers, values: list[Value], name: str) -> Value:
    """Values weighted by the softmax of what their norms score (attention residuals, Kimi ThreadPool 2026)."""
    weight = m.w.tensor(name, 1, m.n_embd)
    if len(values) == 1:
        return values[0]
    stacked = scores = None
    for value in values:
        score = m.graph(Linear(m.bare_norm(value), weight))
        scores = m.graph(Concat(scores, score)) if scores else score
        stacked = m.graph(Concat(stacked, value)) if stacked else value
    assert stacked and scores
    return m.graph(Combine(m.graph(View(stacked, len(values))), m.graph(Activate(scores, "softmax"))))


def _gated(m: Layers, h: Value) -> Value:
    """Delta attention, or latent attention without positions; both with a gate for each channel."""
    if not m.n_head_kv:
        return kimi_delta_attention(m, h, low_rank(m, h, "ssm_g"), bounded_sign=-1.0)
    o = _latent(m, h, None)
    if not m.has("attn_gate"):
        return m.project(o)
    return m.project(m.graph(Gate(m.linear(h, "attn_gate", o.size, o.heads), o, "sigmoid")))


def _routed(m: Layers, h: Value) -> Value:
    def situ(gate: Value, up: Value) -> Value:
        return _situ(m, gate, up)

    latent = m.w.count("expert_latent_length", 0, least=0)
    x = m.linear(h, "ffn_routed_down", latent) if latent else h
    y = m.experts(x, m.route(h, gating=m.gating("sigmoid"), normalise=m.w.flag("expert_weights_norm")), situ)
    y = m.norm(y, "ffn_routed_norm") if m.has("ffn_routed_norm") else y
    y = m.linear(y, "ffn_routed_up", m.n_embd) if latent else y
    return m.add(y, m.shared_expert(h, situ)) if m.has("ffn_up_shexp") else y


def _situ(m: Layers, gate: Value, up: Value) -> Value:
    """β·tanh(gate / β)·sigmoid(gate)·(β'·tanh(up / β'))."""
    beta, linear_beta = (m.w.number(f"activation.situ_{name}") for name in ("beta", "linear_beta"))
    bounded = (m.graph(Activate(x, "softcap", (c,))) for x, c in ((gate, beta), (up, linear_beta)))
    return m.graph(Gate(gate, m.graph(Mul(*bounded)), "sigmoid"))


def _latent(m: Layers, h: Value, rope: RopeFrequencies | None) -> Value:
    """Old files have matrices from before queries were absorbed."""
    return mla.attend_heads(m, h, rope) if m.has("attn_kv_b") else mla.attend(m, mla.absorbed(m, h, rope))

"""Kimi Linear (Kimi Team 2025) and what has its layers, delta attention and latent attention: Ling 3, Kimi K3."""

from __future__ import annotations

from ..operations import Activate, Mul, RopeFrequencies, Value
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


def _latent(m: Layers, h: Value, rope: RopeFrequencies | None) -> Value:
    """Old files have matrices from before queries were absorbed."""
    return mla.attend_heads(m, h, rope) if m.has("attn_kv_b") else mla.attend(m, mla.absorbed(m, h, rope))

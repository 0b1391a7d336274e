"""gpt-oss (OpenAI 2025)."""

from __future__ import annotations

from ..operations import Combine, Gate, Value
from .layers import Layers


def gpt_oss(m: Layers) -> None:
    """Windows in every second layer, attention sinks, experts with biases and a clamped SwiGLU."""
    rope = m.rope_frequencies("halves")
    local = m.rope_frequencies("halves", base=m.w.number("rope.freq_base_swa", 0.0))

    def attention(h: Value) -> Value:
        window = m.window(2)
        q, k, v = m.qkv(h)
        q, k = m.rotate(q, k, local if window else rope)
        return m.project(m.attend(q, k, v, window=window, sinks=m.tensor("attn_sinks.weight", m.n_head)))

    m.output(m.pre_norm(m.embed(), attention, lambda h: _experts(m, h), second="post_attention_norm"))


def _experts(m: Layers, h: Value) -> Value:
    """The weights are the softmax of the logits of those taken; values beyond ±7 are cut off."""
    route = m.route(h, gating="softmax_used", normalise=False)
    gate, up = (m.expert_linear(h, route, f"ffn_{part}_exps", m.n_ff_expert) for part in ("gate", "up"))
    y = m.graph(Gate(gate, up, "clamped_silu", 7.0))
    return m.graph(Combine(m.expert_linear(y, route, "ffn_down_exps", m.n_embd), route))

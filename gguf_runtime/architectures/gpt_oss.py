"""gpt-oss (OpenAI 2025)."""

from __future__ import annotations

from ..operations import Gate, Value
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

    def experts(h: Value) -> Value:
        """The weights are the softmax of the logits of those taken; values beyond ±7 are cut off."""
        route = m.route(h, gating="softmax_used", normalise=False)
        return m.experts(h, route, lambda gate, up: m.graph(Gate(gate, up, "clamped_silu", 7.0)))

    m.output(m.pre_norm(m.embed(), attention, experts, second="post_attention_norm"))

"""GroveMoE (Wu et al. 2025)."""

from __future__ import annotations

from ..operations import Combine, ExpertLinear, Route, Value
from .hparams import ModelError
from .layers import Layers


def grovemoe(m: Layers) -> None:
    """As qwen3moe; neighbouring experts share a smaller one, which works on what the experts made."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=True), lambda h: _experts(m, h)))


def _experts(m: Layers, h: Value) -> Value:
    logits = m.linear(h, "ffn_gate_inp", m.n_expert)
    y = m.experts(h, m.route_by(logits))
    share = m.w.count("experts_per_group")
    if m.n_expert % share:
        raise ModelError(f"{m.n_expert} experts make no groups of {share}")
    n = min(m.w.count("expert_used_count"), m.n_expert // share)
    route = m.graph(Route(logits, n, share=share))
    n_ff = m.w.count("expert_chunk_feed_forward_length")

    def linear(x: Value, part: str, n_rows: int) -> Value:
        weight = m.tensor(f"ffn_{part}_chexps.weight", m.n_expert // share, n_rows, x.width)
        return m.graph(ExpertLinear(x, route, weight))

    small = linear(m.activate(linear(y, "up", n_ff), "silu", linear(y, "gate", n_ff)), "down", m.n_embd)
    return m.add(y, m.graph(Combine(small, route)), m.w.number("expert_group_scale"))

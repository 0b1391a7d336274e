"""Llama 4 (Meta 2025)."""

from __future__ import annotations

from ..operations import Combine, Mul, ScaleByPosition, Slice, Value
from .layers import Layers

_CHUNK = 8192  # tokens that see each other in layers with RoPE; the same in all models


def llama4(m: Layers) -> None:
    """Three of four layers have RoPE and see their chunk, the others see all, and queries grow with the position."""
    m.w.ignore("attention.chunk_size")
    rope = m.rope_frequencies("pairs")
    chunked = m.w.count("attention.sliding_window", _CHUNK, least=0) > 0
    step = 4 if chunked else m.n_layer
    with_norm = m.n_expert != 128  # Maverick, which no key tells

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        rotates = (m.i + 1) % step != 0
        if rotates:
            q, k = m.rotate(q, k, rope)
        elif chunked:
            q = m.graph(ScaleByPosition(q, 0.1, _CHUNK, offset=1))
        if rotates and with_norm:
            q, k = m.bare_norm(q), m.bare_norm(k)
        window = m.window(4, size=_CHUNK)
        return m.project(m.attend(q, k, v, chunk=_CHUNK if window else 0))

    m.output(m.pre_norm(m.embed(), attention, lambda h: _feed_forward(m, h)))


def _feed_forward(m: Layers, h: Value) -> Value:
    """Experts are chosen by their logits, and weighted by the sigmoid of these before they work."""
    m.w.ignore("interleave_moe_layer_step")  # which layers these are: tensors tell it
    if not m.has("ffn_gate_inp"):
        return m.ffn(h)
    logits = m.linear(h, "ffn_gate_inp", m.n_expert)
    route = m.route_by(logits, gating="sigmoid", normalise=False, by_logits=True)
    weighted = m.graph(Mul(h, m.graph(Slice(route, 1, 2))))
    return m.add(m.graph(Combine(m.each_expert(weighted, route), None)), m.shared_expert(h))

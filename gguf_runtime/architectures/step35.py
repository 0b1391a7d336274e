"""Step 3.5 (StepFun 2026)."""

from __future__ import annotations

import math

from ..operations import Activate, Mul, Value
from .layers import Glu, Layers


def step35(m: Layers) -> None:
    """Attention with gates; layers without windows turn half as many dimensions, with another base. In some layers
    what experts make is clamped."""
    n_rot = m.w.count("rope.dimension_count", m.head_dim)
    full = m.rope_frequencies("halves", n_rot=n_rot // 2)
    base, n_rot = m.w.number("rope.freq_base_swa", 10000.0), m.w.count("rope.dimension_count_swa", n_rot)
    local = m.rope_frequencies("halves", n_rot=n_rot, base=base, scaled=False)

    def attention(h: Value) -> Value:
        window = m.window()
        q, k, v = m.qkv(h)
        if m.has("attn_q_norm"):
            q, k = m.qk_norm(q, k)
        q, k = m.rotate(q, k, local if window else full)
        o = m.attend(q, k, v, window=window)
        return m.project(m.gate(o, h) if m.has("attn_gate") else o)

    def feed_forward(h: Value) -> Value:
        kind, shared_kind = _clamped(m, "swiglu_clamp_exp"), _clamped(m, "swiglu_clamp_shexp")
        return m.moe(h, kind, shared_kind=shared_kind, gating="sigmoid")

    m.output(m.pre_norm(m.embed(), attention, feed_forward))


def _clamped(m: Layers, key: str) -> Glu:
    """The activated gate up to the layer's limit, times up within it; 0 for no limit."""
    limit = m.w.number(key, 0.0, layer=m.i)

    def glu(gate: Value, up: Value) -> Value:
        gate = m.graph(Activate(m.graph(Activate(gate, "silu")), "clamp", (-math.inf, limit)))
        return m.graph(Mul(gate, m.graph(Activate(up, "clamp", (-limit, limit)))))

    return glu if limit > 1e-6 else "silu"

"""RWKV 7 (Peng et al. 2025), and Qwen 2 with it in place of attention."""

from __future__ import annotations

import math

from ..operations import Activate, Add, HeadLinear, Linear, Mul, Norm, Recurrence, Scale, Value
from .layers import Layers
from .rwkv import channel_mix, group_norm, ignore_known, n_heads, way_back, weighted


def rwkv7(m: Layers) -> None:
    ignore_known(m)
    m.w.ignore(*(f"blk.0.time_mix_v{n}.weight" for n in range(3)))  # files have them, and the first layer no use
    x, first_v = m.norm_embedding(m.embed()), None
    for _ in m.layers():
        y, first_v = _time_mix(m, m.norm(x, "attn_norm"), first_v)
        x = m.add(x, y)
        h = m.norm(x, "attn_norm_2")
        x = m.add(x, channel_mix(m, m.graph(Add(h, weighted(m, way_back(m, h), "channel_mix_lerp_k")))))
    m.output(x)


def arwkv7(m: Layers) -> None:
    """Qwen 2 with RWKV 7 in place of attention (Yueyu et al. 2025)."""
    ignore_known(m)
    m.w.ignore(*(f"blk.0.time_mix_v{n}.weight" for n in range(3)))
    x, first_v = m.embed(), None
    for _ in m.layers():
        y, first_v = _time_mix(m, m.norm(x, "attn_norm"), first_v)
        x = m.add(x, y)
        x = m.add(x, m.ffn(m.norm(x, "ffn_norm")))
    m.output(x)


def _time_mix(m: Layers, h: Value, first_v: Value | None) -> tuple[Value, Value]:
    """The result, and the values of the first layer, towards which those of later ones are drawn."""
    heads, n, back = n_heads(m), m.n_embd, way_back(m, h)
    gated = m.has("time_mix_g1")
    fused = m.tensor("time_mix_lerp_fused.weight", 6 if gated else 5, n)
    mixed = [m.graph(Add(h, m.graph(Scale(back, weight=fused.rows(i, i + 1))))) for i in range(fused.shape[0])]
    r, w, k, v, a = mixed[:5]
    r, k, v = (m.linear(x, f"time_mix_{name}", n, heads) for x, name in ((r, "receptance"), (k, "key"), (v, "value")))
    w = m.graph(Activate(_low_rank(m, w, "w", "tanh"), "sigmoid"))
    decay = m.graph(Activate(m.graph(Scale(w, -math.exp(-0.5))), "exp"))
    if first_v:
        share = m.graph(Activate(_low_rank(m, mixed[3], "v"), "sigmoid"))
        v = m.graph(Add(v, m.graph(Mul(m.graph(Add(first_v, v, -1.0)), share))))
    rate = m.graph(Activate(_low_rank(m, a, "a"), "sigmoid"))
    removed = m.graph(Norm(weighted(m, k, "time_mix_k_k"), None, 1e-12, "l2"))
    part = weighted(m, k, "time_mix_k_a")
    k = m.graph(Add(k, m.graph(Add(m.graph(Mul(rate, part)), part, -1.0))))
    inputs = r, k, v, decay, m.graph(Scale(removed, -1.0)), m.graph(Mul(removed, rate))
    o = m.graph(Recurrence("rwkv7", inputs, (), m.new_slot(), heads, v.width))
    if m.has("time_mix_ln"):
        o = group_norm(m, o)
    bonus_weight = m.tensor("time_mix_r_k.weight", n)._replace(shape=(heads, 1, k.width))
    bonus = m.graph(HeadLinear(m.graph(Mul(k, r)), bonus_weight))
    y = m.graph(Add(o, m.graph(Mul(v, bonus))))
    if gated:
        g = m.graph(Activate(m.linear(mixed[5], "time_mix_g1", _rank(m, "g")), "sigmoid"))
        y = m.graph(Mul(y, m.linear(g, "time_mix_g2", n, heads)))
    return m.linear(y, "time_mix_output", n), first_v or v


def _rank(m: Layers, part: str) -> int:
    return m.w.shape(m.name(f"time_mix_{part}1.weight"))[0]


def _low_rank(m: Layers, x: Value, part: str, kind: str = "") -> Value:
    """x·W₁·W₂ + w₀, with an activation between the two matrices."""
    x = m.linear(x, f"time_mix_{part}1", _rank(m, part))
    x = m.graph(Activate(x, kind)) if kind else x
    weight = m.tensor(f"time_mix_{part}2.weight", m.n_embd, x.width)
    return m.graph(Linear(x, weight, m.tensor(f"time_mix_{part}0.weight", m.n_embd), n_heads(m)))

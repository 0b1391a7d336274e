"""RWKV 6 (Peng et al. 2024) and 7 (Peng et al. 2025), and models whose attention was replaced by them."""

from __future__ import annotations

import math

from ..operations import (
    Activate,
    Add,
    Gate,
    HeadLinear,
    Linear,
    Mul,
    Norm,
    Recurrence,
    Repeat,
    Scale,
    Shift,
    Slice,
    Value,
    View,
)
from .layers import Layers

_GROUP_NORM_EPS = 64e-5  # of heads' results; 1e-5 times 8², as RWKV divides them by 8


def rwkv6(m: Layers) -> None:
    """Layers of time mix and channel mix; every so many layers the stream is halved, as the weights expect."""
    rescale = m.w.count("rescale_every_n_layers", 0, least=0)
    _ignore_heads(m)
    x = m.norm_embedding(m.embed())
    for i in m.layers():
        x = m.add(x, _time_mix_6(m, m.norm(x, "attn_norm")))
        h = m.norm(x, "attn_norm_2")
        back = _back(m, h)
        k, r = (m.graph(Add(h, _weighted(m, back, f"channel_mix_lerp_{part}"))) for part in "kr")
        value = _channel_mix(m, k)
        x = m.add(x, m.graph(Gate(m.linear(r, "channel_mix_receptance", m.n_embd), value, "sigmoid")))
        if rescale and (i + 1) % rescale == 0:
            x = m.graph(Scale(x, 0.5))
    m.output(x)


def rwkv7(m: Layers) -> None:
    _ignore_heads(m)
    m.w.ignore(*(f"blk.0.time_mix_v{n}.weight" for n in range(3)))  # files have them, and the first layer no use
    x, first_v = m.norm_embedding(m.embed()), None
    for _ in m.layers():
        y, first_v = _time_mix_7(m, m.norm(x, "attn_norm"), first_v)
        x = m.add(x, y)
        h = m.norm(x, "attn_norm_2")
        x = m.add(x, _channel_mix(m, m.graph(Add(h, _weighted(m, _back(m, h), "channel_mix_lerp_k")))))
    m.output(x)


def rwkv6qwen2(m: Layers) -> None:
    """Qwen 2 with RWKV 6 in place of attention (QRWKV, Recursal 2024)."""
    _ignore_heads(m)
    m.output(m.pre_norm(m.embed(), lambda h: _time_mix_6(m, h), m.ffn))


def arwkv7(m: Layers) -> None:
    """Qwen 2 with RWKV 7 in place of attention (Yueyu et al. 2025)."""
    _ignore_heads(m)
    m.w.ignore(*(f"blk.0.time_mix_v{n}.weight" for n in range(3)))
    x, first_v = m.embed(), None
    for _ in m.layers():
        y, first_v = _time_mix_7(m, m.norm(x, "attn_norm"), first_v)
        x = m.add(x, y)
        x = m.add(x, m.ffn(m.norm(x, "ffn_norm")))
    m.output(x)


def _ignore_heads(m: Layers) -> None:
    """What other keys and the tensors tell too."""
    m.w.ignore("attention.head_count", "token_shift_count")
    m.w.ignore(*(f"attention.{part}_lora_rank" for part in ("decay", "iclr", "value_residual_mix", "gate")))


def _heads(m: Layers) -> int:
    return m.n_embd // m.w.count("wkv.head_size")


def _back(m: Layers, h: Value) -> Value:
    """The way back to the token before."""
    return m.graph(Add(m.graph(Shift(h, m.new_slot())), h, -1.0))


def _weighted(m: Layers, x: Value, name: str) -> Value:
    return m.graph(Scale(x, weight=m.tensor(f"{name}.weight", x.size)))


def _channel_mix(m: Layers, x: Value) -> Value:
    k = m.graph(Activate(m.linear(x, "channel_mix_key", m.n_ff), "squared_relu"))
    return m.linear(k, "channel_mix_value", m.n_embd)


def _time_mix_6(m: Layers, h: Value) -> Value:
    """Each of five inputs lies somewhere between this token and the one before; where, depends on both."""
    heads = _heads(m)
    w, k, v, r, g = _between_6(m, h)
    r, g = m.linear(r, "time_mix_receptance", m.n_embd, heads), m.linear(g, "time_mix_gate", m.n_embd, heads)
    n_kv = m.w.count("attention.head_count_kv", 0, least=0) or heads
    k, v = (m.linear(x, f"time_mix_{name}", m.n_embd // heads * n_kv, n_kv) for x, name in ((k, "key"), (v, "value")))
    rank = m.w.count("time_decay_extra_dim")
    w = m.graph(Activate(m.linear(w, "time_mix_decay_w1", rank), "tanh"))
    w = m.linear(w, "time_mix_decay_w2", m.n_embd, heads)
    w = m.graph(Activate(m.graph(Scale(w, bias=m.tensor("time_mix_decay.weight", m.n_embd))), "exp"))
    decay = m.graph(Activate(m.graph(Scale(w, -1.0)), "exp"))
    if n_kv < heads:
        k, v = (m.graph(Repeat(x, heads // n_kv)) for x in (k, v))
    if m.has("time_mix_first"):
        first = m.tensor("time_mix_first.weight", heads, r.width)
        o = m.graph(Recurrence("rwkv6", (r, k, v, decay), (first,), m.new_slot(), heads, v.width))
        y = m.graph(Gate(g, _group_norm(m, o)))
    else:
        r, k = m.graph(Scale(r, r.width**-0.5)), m.graph(Add(k, m.graph(Mul(k, decay)), -1.0))
        o = m.graph(Recurrence("linear", (r, k, v, decay), (), m.new_slot(), heads, v.width))
        y = m.graph(Gate(g, o, "sigmoid"))
    return m.linear(y, "time_mix_output", m.n_embd)


def _between_6(m: Layers, h: Value) -> list[Value]:
    n, rank = m.n_embd, m.w.count("time_mix_extra_dim")
    back = _back(m, h)
    x = m.graph(Add(h, _weighted(m, back, "time_mix_lerp_x")))
    x = m.graph(Activate(m.linear(x, "time_mix_w1", 5 * rank, 5), "tanh"))
    x = m.graph(View(m.graph(HeadLinear(x, m.tensor("time_mix_w2.weight", 5, n, rank))), 1))
    fused = m.optional("time_mix_lerp_fused.weight", 5, n)
    made = []
    for i, name in enumerate("wkvrg"):
        start = fused.rows(i, i + 1) if fused else m.tensor(f"time_mix_lerp_{name}.weight", n)
        way = m.graph(Mul(m.graph(Scale(m.graph(Slice(x, i * n, (i + 1) * n)), bias=start)), back))
        made.append(m.graph(Add(h, way)))
    return made


def _time_mix_7(m: Layers, h: Value, first_v: Value | None) -> tuple[Value, Value]:
    """The result, and the values of the first layer, towards which those of later ones are drawn."""
    heads, n, back = _heads(m), m.n_embd, _back(m, h)
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
    removed = m.graph(Norm(_weighted(m, k, "time_mix_k_k"), None, 1e-12, "l2"))
    part = _weighted(m, k, "time_mix_k_a")
    k = m.graph(Add(k, m.graph(Add(m.graph(Mul(rate, part)), part, -1.0))))
    inputs = r, k, v, decay, m.graph(Scale(removed, -1.0)), m.graph(Mul(removed, rate))
    o = m.graph(Recurrence("rwkv7", inputs, (), m.new_slot(), heads, v.width))
    if m.has("time_mix_ln"):
        o = _group_norm(m, o)
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
    return m.graph(Linear(x, weight, m.tensor(f"time_mix_{part}0.weight", m.n_embd), _heads(m)))


def _group_norm(m: Layers, o: Value) -> Value:
    weight, bias = (m.tensor(f"time_mix_ln.{part}", o.size) for part in ("weight", "bias"))
    return m.graph(Norm(o, weight, _GROUP_NORM_EPS, "layer", bias))

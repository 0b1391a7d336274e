"""RWKV 6 (Peng et al. 2024), and Qwen 2 with it in place of attention."""

from __future__ import annotations

from ..operations import Activate, Add, Gate, HeadLinear, Mul, Recurrence, Repeat, Scale, Slice, Value, View
from .layers import Layers
from .rwkv import channel_mix, group_norm, ignore_known, n_heads, way_back, weighted


def rwkv6(m: Layers) -> None:
    """Layers of time mix and channel mix; every so many layers the stream is halved, as the weights expect."""
    rescale = m.w.count("rescale_every_n_layers", 0, least=0)
    ignore_known(m)
    x = m.norm_embedding(m.embed())
    for i in m.layers():
        x = m.add(x, _time_mix(m, m.norm(x, "attn_norm")))
        h = m.norm(x, "attn_norm_2")
        back = way_back(m, h)
        k, r = (m.graph(Add(h, weighted(m, back, f"channel_mix_lerp_{part}"))) for part in "kr")
        value = channel_mix(m, k)
        x = m.add(x, m.graph(Gate(m.linear(r, "channel_mix_receptance", m.n_embd), value, "sigmoid")))
        if rescale and (i + 1) % rescale == 0:
            x = m.graph(Scale(x, 0.5))
    m.output(x)


def rwkv6qwen2(m: Layers) -> None:
    """Qwen 2 with RWKV 6 in place of attention (QRWKV, Recursal 2024)."""
    ignore_known(m)
    m.output(m.pre_norm(m.embed(), lambda h: _time_mix(m, h), m.ffn))


def _time_mix(m: Layers, h: Value) -> Value:
    """Each of five inputs lies somewhere between this token and the one before; where, depends on both."""
    heads = n_heads(m)
    w, k, v, r, g = _between(m, h)
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
        y = m.graph(Gate(g, group_norm(m, o)))
    else:
        r, k = m.graph(Scale(r, r.width**-0.5)), m.graph(Add(k, m.graph(Mul(k, decay)), -1.0))
        o = m.graph(Recurrence("linear", (r, k, v, decay), (), m.new_slot(), heads, v.width))
        y = m.graph(Gate(g, o, "sigmoid"))
    return m.linear(y, "time_mix_output", m.n_embd)


def _between(m: Layers, h: Value) -> list[Value]:
    n, rank = m.n_embd, m.w.count("time_mix_extra_dim")
    back = way_back(m, h)
    x = m.graph(Add(h, weighted(m, back, "time_mix_lerp_x")))
    x = m.graph(Activate(m.linear(x, "time_mix_w1", 5 * rank, 5), "tanh"))
    x = m.graph(View(m.graph(HeadLinear(x, m.tensor("time_mix_w2.weight", 5, n, rank))), 1))
    fused = m.optional("time_mix_lerp_fused.weight", 5, n)
    made = []
    for i, name in enumerate("wkvrg"):
        start = fused.rows(i, i + 1) if fused else m.tensor(f"time_mix_lerp_{name}.weight", n)
        way = m.graph(Mul(m.graph(Scale(m.graph(Slice(x, i * n, (i + 1) * n)), bias=start)), back))
        made.append(m.graph(Add(h, way)))
    return made

"""The pieces that RWKV 6 (Peng et al. 2024) and 7 (Peng et al. 2025) share."""

from __future__ import annotations

from ..operations import Activate, Add, Norm, Scale, Shift, Value
from .layers import Layers

_GROUP_NORM_EPS = 64e-5  # of heads' results; 1e-5 times 8², as RWKV divides them by 8


def ignore_known(m: Layers) -> None:
    """What other keys and the tensors tell too."""
    m.w.ignore("attention.head_count", "token_shift_count")
    m.w.ignore(*(f"attention.{part}_lora_rank" for part in ("decay", "iclr", "value_residual_mix", "gate")))


def n_heads(m: Layers) -> int:
    return m.n_embd // m.w.count("wkv.head_size")


def way_back(m: Layers, h: Value) -> Value:
    """The way back to the token before."""
    return m.graph(Add(m.graph(Shift(h, m.new_slot())), h, -1.0))


def weighted(m: Layers, x: Value, name: str) -> Value:
    return m.graph(Scale(x, weight=m.tensor(f"{name}.weight", x.size)))


def channel_mix(m: Layers, x: Value) -> Value:
    k = m.graph(Activate(m.linear(x, "channel_mix_key", m.n_ff), "squared_relu"))
    return m.linear(k, "channel_mix_value", m.n_embd)


def group_norm(m: Layers, o: Value) -> Value:
    weight, bias = (m.tensor(f"time_mix_ln.{part}", o.size) for part in ("weight", "bias"))
    return m.graph(Norm(o, weight, _GROUP_NORM_EPS, "layer", bias))

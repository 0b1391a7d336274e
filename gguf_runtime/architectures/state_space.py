"""The pieces of models with convolutions and state spaces."""

from __future__ import annotations

from ..operations import Activate, Conv, Gate, Recurrence, Scale, Slice, Value, View
from .hparams import ModelError
from .layers import Layers


def convolve(m: Layers, x: Value, name: str, taps_key: str = "ssm.conv_kernel") -> Value:
    """A causal convolution of each column, over the last tokens."""
    if not m.causal:
        raise ModelError("convolutions and states that look ahead are not supported")
    taps = m.w.count(taps_key)
    weight, bias = m.tensor(f"{name}.weight", x.size, taps), m.optional(f"{name}.bias", x.size)
    return m.graph(Conv(x, weight, m.new_slot(), bias))


def convolve_silu(m: Layers, x: Value, name: str = "ssm_conv1d") -> Value:
    return m.graph(Activate(convolve(m, x, name), "silu"))


def mamba(m: Layers, h: Value, *, norms: bool = False) -> Value:
    """Mamba's mixer (Gu & Dao 2023), each column a state of its own.

    norms: steps, B and C are normed, with weights where there are any.
    """
    inner, n, rank = (m.w.count(f"ssm.{key}") for key in ("inner_size", "state_size", "time_step_rank"))
    x, z = m.slices(h, "ssm_in", (inner, 1), (inner, 1))
    x = convolve_silu(m, x)
    dt, b, c = m.slices(x, "ssm_x", (rank, 1), (n, 1), (n, 1))
    if norms:
        named = (dt, "ssm_dt_norm"), (b, "ssm_b_norm"), (c, "ssm_c_norm")
        dt, b, c = (m.norm(part, name) if m.has(name) else m.bare_norm(part) for part, name in named)
    dt = m.linear(dt, "ssm_dt", inner, heads=inner)
    y = scan(m, m.graph(View(x, inner)), dt, b, c, n)
    return m.linear(m.graph(Gate(m.graph(View(z, inner)), y)), "ssm_out", m.n_embd)


def mamba2(m: Layers, h: Value) -> Value:
    """Mamba-2's mixer (Dao & Gu 2024): heads that share B and C in groups, and a norm of each group at the end."""
    inner, n, heads = (m.w.count(f"ssm.{key}") for key in ("inner_size", "state_size", "time_step_rank"))
    groups = m.w.count("ssm.group_count")
    z, xbc, dt = m.slices(h, "ssm_in", (inner, heads), (inner + 2 * groups * n, 1), (heads, heads))
    xbc = convolve_silu(m, xbc)
    ends = inner, inner + groups * n, inner + 2 * groups * n
    parts = (m.graph(Slice(xbc, first, end)) for first, end in zip((0, *ends), ends, strict=False))
    x, b, c = (m.graph(View(part, of)) for part, of in zip(parts, (heads, groups, groups), strict=True))
    dt = m.graph(Scale(dt, bias=m.tensor("ssm_dt.bias", heads)))
    y = m.graph(View(m.graph(Gate(z, scan(m, x, dt, b, c, 1))), groups))
    if m.has("ssm_norm"):
        y = m.norm(y, "ssm_norm", groups, y.width)
    return m.linear(y, "ssm_out", m.n_embd)


def scan(m: Layers, x: Value, dt: Value, b: Value, c: Value, n_rates: int) -> Value:
    """The selective scan: x of each head, its step before softplus, and A of n_rates numbers a head."""
    weights = m.tensor("ssm_a", x.heads, n_rates), m.tensor("ssm_d", x.heads, 1)
    steps = m.graph(Activate(dt, "softplus"))
    return m.graph(Recurrence("ssm", (x, steps, b, c), weights, m.new_slot(), x.heads, x.width))

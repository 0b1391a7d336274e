"""The pieces of models with a delta rule: what a key is to give replaces what the state gave for it."""

from __future__ import annotations

from ..operations import Activate, Gate, Norm, Recurrence, Repeat, Scale, Slice, Value, View
from .layers import Layers
from .state_space import convolve_silu


def gated_delta_net(m: Layers, h: Value, qkv: Value, z: Value, beta: Value, alpha: Value, *, tiled: bool,
                    gate: str = "silu") -> Value:  # fmt: skip
    """Gated delta net (Yang et al. 2024) of qkv before its convolution; z, β and α before their activations.

    gate: the activation of z. tiled: key head j serves the value heads j, j + n, …; otherwise a run of neighbours.
    """
    w = m.w
    n_k, n_v, k_dim = w.count("ssm.group_count"), w.count("ssm.time_step_rank"), w.count("ssm.state_size")
    qkv, n = convolve_silu(m, qkv), n_k * k_dim
    q, k = (m.graph(View(m.graph(Slice(qkv, first, first + n)), n_k)) for first in (0, n))
    q, k = (m.graph(Repeat(part, n_v // n_k, tiled)) for part in (q, k))
    v = m.graph(View(m.graph(Slice(qkv, 2 * n, qkv.width)), n_v))
    steps = m.graph(Activate(m.graph(Scale(alpha, bias=m.tensor("ssm_dt.bias", n_v))), "softplus"))
    decay = m.graph(Scale(steps, weight=m.tensor("ssm_a", n_v)))
    o = m.norm(delta_rule(m, q, k, v, decay, beta), "ssm_norm")
    return m.linear(m.graph(Gate(z, o, gate)), "ssm_out", m.n_embd)


def kimi_delta_attention(m: Layers, h: Value, gate: Value, *, bounded_sign: float = 1.0) -> Value:
    """Kimi's delta attention (Kimi ThreadPool 2025): a decay for each channel. gate: of the output, before its sigmoid.

    The decay is ssm_a·softplus(x + dt), where ssm_a is −e^A; or where the file names a lower bound, that times
    sigmoid(e^A·(x + dt)). bounded_sign: of ssm_a then, which depends on the converter.
    """
    w, dim = m.w, m.w.count("kda.head_dim")
    heads, size = m.n_head, m.n_head * dim
    q, k, v = (
        m.graph(View(convolve_silu(m, m.linear(h, f"attn_{part}", size), f"ssm_conv1d_{part}"), heads))
        for part in "qkv"
    )
    x = m.graph(Scale(m.graph(View(low_rank(m, h, "ssm_f"), heads)), bias=m.tensor("ssm_dt.bias", size)))
    rates = m.tensor("ssm_a", heads, 1)
    if bound := w.number("kda.gate_lower_bound", 0.0):
        decay = m.graph(Scale(m.graph(Activate(m.graph(Scale(x, bounded_sign, rates)), "sigmoid")), bound))
    else:
        decay = m.graph(Scale(m.graph(Activate(x, "softplus")), weight=rates))
    o = m.norm(delta_rule(m, q, k, v, decay, m.linear(h, "ssm_beta", heads, heads)), "ssm_norm")
    return m.project(m.graph(Gate(m.graph(View(gate, heads)), o, "sigmoid")))


def low_rank(m: Layers, h: Value, name: str) -> Value:
    """A product with two small matrices, or with one."""
    dim = m.w.count("kda.head_dim")
    if not m.has(f"{name}_b"):
        return m.linear(h, name if m.has(name) else f"{name}_a", m.n_head * dim)
    return m.linear(m.linear(h, f"{name}_a", dim), f"{name}_b", m.n_head * dim)


def delta_rule(m: Layers, q: Value, k: Value, v: Value, decay: Value, beta: Value) -> Value:
    """The recurrence with normed keys and queries; β before its sigmoid."""
    _, eps = m.norm_kind
    q, k = (m.graph(Norm(part, None, eps, "l2")) for part in (q, k))
    q, beta = m.graph(Scale(q, q.width**-0.5)), m.graph(Activate(beta, "sigmoid"))
    return m.graph(Recurrence("delta", (q, k, v, decay, beta), (), m.new_slot(), v.heads, v.width))

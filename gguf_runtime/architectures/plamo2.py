"""PLaMo 2 (Preferred Networks 2025): layers of attention and of Mamba with heads, with norms before and after."""

from __future__ import annotations

from ..operations import Gate, Slice, Value
from .layers import Layers
from .state_space import convolve_silu, scan


def plamo2(m: Layers) -> None:
    m.w.ignore("ssm.group_count")  # there is one group
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        y = m.attention(h, m.rope_frequencies("halves"), qk_norm=True) if m.n_head_kv else _mamba(m, h)
        x = m.add(x, m.norm(y, "post_attention_norm"))
        x = m.add(x, m.norm(m.ffn(m.norm(x, "ffn_norm")), "post_ffw_norm"))
    m.output(x)


def _mamba(m: Layers, h: Value) -> Value:
    """Steps, B and C come of a product and norms as in Mamba; x and z stand in turns, head by head."""
    inner, n, heads = (m.w.count(f"ssm.{key}") for key in ("inner_size", "state_size", "time_step_rank"))
    zx = m.linear(h, "ssm_in", 2 * inner, heads)
    z, x = (m.graph(Slice(zx, first, first + zx.width // 2)) for first in (0, zx.width // 2))
    x = convolve_silu(m, x)
    rank = max(64, m.n_embd // 16)
    b, c, dt = m.slices(x, "ssm_x", (n, 1), (n, 1), (rank, 1))
    b, c, dt = (m.norm(part, f"ssm_{name}_norm") for part, name in ((b, "b"), (c, "c"), (dt, "dt")))
    y = scan(m, x, m.linear(dt, "ssm_dt", heads, heads), b, c, 1)
    return m.linear(m.graph(Gate(z, y)), "ssm_out", m.n_embd)

"""Nanbeige."""

from __future__ import annotations

from ..operations import Norm, Value
from .layers import Layers


def nanbeige(m: Layers) -> None:
    """As llama, but the text passes all layers several times; each time they keep other keys and values."""
    rope, scale = m.rope_frequencies("pairs"), m.w.number("attention.scale", 0.0)
    n_loops, skip_norm = m.w.count("num_loops", 1), m.w.flag("skip_loop_final_norm")
    kind, eps = m.norm_kind
    x = m.embed()
    for loop in range(n_loops):

        def attention(h: Value, loop: int = loop) -> Value:
            q, k, v = m.qkv(h)
            q, k = m.rotate(q, k, rope)
            return m.project(m.attend(q, k, v, scale=scale, slot=loop * m.n_layer + m.i))

        x = m.pre_norm(x, attention, m.ffn)
        if loop < n_loops - 1 and not skip_norm:
            x = m.graph(Norm(x, m.w.tensor("output_norm.weight", m.n_embd), eps, kind))
    m.output(x)

"""The Hierarchical Reasoning Model for text (Wang et al. 2025)."""

from __future__ import annotations

from itertools import count

from ..operations import Scale, Value
from .layers import Layers


def hrm_text(m: Layers) -> None:
    """Two stacks of layers: the low one passes over the text several times for each pass of the high one.

    Norms have no weights; attention is gated. Each pass keeps keys and values of its own. A file's layers are those of
    the low stack, then those of the high one; its `block_count` counts passes.
    """
    rope = m.rope_frequencies("halves")
    n_stack, h_cycles, l_cycles = (m.w.count(f"hrm.{key}") for key in ("layers_per_stack", "h_cycles", "l_cycles"))
    m.w.ignore("hrm.prefix_lm")
    slots = count()

    def stack(x: Value, first: int) -> Value:
        for layer in range(first, first + n_stack):
            m.graph.layer = layer
            h = m.bare_norm(x)
            q, k, v = m.qkv(h)
            q, k = m.rotate(q, k, rope)
            x = m.add(x, m.project(m.gate(m.attend(q, k, v, slot=next(slots)), h)))
            x = m.add(x, m.ffn(m.bare_norm(x)))
        return m.bare_norm(x)

    high = m.embed(m.w.number("embedding_scale", 0.0) or 1.0)
    # the low state begins with a learned vector, the same for all tokens
    low = m.graph(Scale(high, 0.0, bias=m.w.tensor("hrm.z_l_init", m.n_embd)))
    for _ in range(h_cycles):
        for _ in range(l_cycles):
            low = stack(m.add(high, low), 0)
        high = stack(m.add(high, low), n_stack)
    m.output(high, norm="")

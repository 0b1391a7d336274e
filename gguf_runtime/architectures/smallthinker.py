"""SmallThinker (2025)."""

from __future__ import annotations

from .layers import Layers

_WINDOW = 4096  # in files that have windows, whatever size these tell


def smallthinker(m: Layers) -> None:
    """The router reads a layer's input before any norm, so that experts can be fetched while attention works."""
    rope = m.rope_frequencies("halves")
    step = 4 if m.w.count("attention.sliding_window", 0, least=0) else m.n_layer
    x = m.embed()
    for i in m.layers():
        route = m.route(x, gating=m.gating())
        window = _WINDOW if m.window(4, full_first=True) else 0
        rotates = step == m.n_layer or i % step != 0  # layers that see all know no positions
        x = m.add(x, m.attention(m.norm(x, "attn_norm"), rope if rotates else None, window=window))
        x = m.add(x, m.experts(m.norm(x, "ffn_norm"), route, "relu"))
    m.output(x)

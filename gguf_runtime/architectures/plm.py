"""PLM (2025): latent attention and the square of a ReLU, for small devices."""

from __future__ import annotations

from . import mla
from .layers import Layers


def plm(m: Layers) -> None:
    rope = m.rope_frequencies("pairs")
    x = m.pre_norm(
        m.embed(),
        lambda h: m.project(mla.attend_heads(m, h, rope)),
        lambda h: m.ffn(h, "squared_relu", gated=False),
    )
    m.output(x)

"""Mamba (Gu & Dao 2023), Falcon Mamba (Zuo et al. 2024) and Mamba-2 (Dao & Gu 2024)."""

from __future__ import annotations

from . import state_space
from .layers import Layers


def mamba(m: Layers) -> None:
    """Layers of one mixer each; Falcon Mamba norms steps, B and C."""
    norms = m.w.flag("ssm.dt_b_c_rms")
    x = m.embed()
    for _ in m.layers():
        x = m.add(x, state_space.mamba(m, m.norm(x, "attn_norm"), norms=norms))
    m.output(x)


def mamba2(m: Layers) -> None:
    x = m.embed()
    for _ in m.layers():
        x = m.add(x, state_space.mamba2(m, m.norm(x, "attn_norm")))
    m.output(x)

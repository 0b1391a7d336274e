"""MiMo-V2 (Xiaomi 2025)."""

from __future__ import annotations

from ..operations import Scale, Value
from .layers import Layers


def mimo2(m: Layers) -> None:
    """Layers with windows have sinks, and more KV heads; values are narrower than keys, and scaled."""
    full = m.rope_frequencies("halves")
    local = m.rope_frequencies("halves", base=m.w.number("rope.freq_base_swa", 10000.0), scaled=False)
    scale = m.w.number("attention.value_scale", 0.0) or 1.0

    m.w.ignore("expert_gating_func")  # always the same

    def attention(h: Value) -> Value:
        window = m.window()
        q, k, v = m.qkv(h)
        q, k = m.rotate(q, k, local if window else full)
        o = m.attend(q, k, v, window=window, sinks=m.optional("attn_sinks.weight", m.n_head))
        return m.graph(Scale(m.project(o), scale))

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.moe(h, gating="sigmoid", normalise=True)))

"""Granite 3 and 4 (IBM 2024, 2025), dense and with experts."""

from __future__ import annotations

from .layers import Layers


def granite(m: Layers) -> None:
    """As llama, with scales for the embedding, attention, what each block adds, and logits."""
    rope = m.rope_frequencies("pairs") if m.w.flag("rope.scaling.finetuned", True) else None
    x = m.embed(m.w.number("embedding_scale", 0.0) or 1.0)
    scale, residual = m.w.number("attention.scale", 0.0), m.w.number("residual_scale", 0.0) or 1.0
    for _ in m.layers():
        window = m.window() if m.w.is_array("attention.sliding_window_pattern") else 0
        q, k, v = m.qkv(m.norm(x, "attn_norm"))
        q, k = m.rotate(q, k, rope if m.w.flag("attention.rope_pattern", True, layer=m.i) else None)
        sinks = m.optional("attn_sinks.weight", m.n_head)
        x = m.add(x, m.project(m.attend(q, k, v, scale=scale, window=window, sinks=sinks)), residual)
        x = m.add(x, m.moe(m.norm(x, "ffn_norm"), normalise=True), residual)
    m.output(x, scale=1 / m.w.number("logit_scale"))


#: With windows, sinks and layers without positions, as the file says.
granite_swa = granite
granitemoe = granite

"""Grok 1 and 2 (xAI 2024, 2025)."""

from __future__ import annotations

from ..operations import Scale, Value
from .layers import Layers


def grok(m: Layers) -> None:
    """Norms before and after each block, soft caps, and in Grok 2 a feed-forward beside the experts."""
    m.w.ignore("router_logit_softcapping", "attention.temperature_length")  # in files, and not used
    rope, number = m.rope_frequencies("halves"), m.w.number
    scale, softcap = number("attention.output_scale", 128**-0.5), number("attn_logit_softcapping", 30.0)
    x = m.embed(number("embedding_scale", 78.38367176906169))
    for _ in m.layers():
        y = m.attention(m.norm(x, "attn_norm"), rope, scale=scale, softcap=softcap)
        x = m.add(x, m.norm(y, "attn_output_norm"))
        y = _feed_forward(m, m.norm(x, "ffn_norm"))
        x = m.add(x, m.norm(y, "layer_output_norm" if m.has("layer_output_norm") else "post_ffw_norm"))
    m.output(x, scale=number("logit_scale", 3**-0.5), softcap=number("final_logit_softcapping", 0.0))


def _feed_forward(m: Layers, h: Value) -> Value:
    y = m.experts(h, m.route(h), "gelu")
    return m.graph(Scale(m.add(m.ffn(h, "gelu"), y), 0.5**0.5)) if m.has("ffn_up") else y

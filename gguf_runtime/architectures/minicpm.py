"""MiniCPM 1 to 4 (Hu et al. 2024): scales for the embedding, what each block adds, and logits (muP)."""

from __future__ import annotations

from collections.abc import Callable

from ..operations import Value
from . import mla
from .layers import Layers


def minicpm(m: Layers) -> None:
    """As llama, dense or with experts, with these scales; old files do not tell them."""
    rope = m.rope_frequencies("pairs")
    embedding, residual = m.w.number("embedding_scale", 12.0), m.w.number("residual_scale", 1.4 * m.n_layer**-0.5)
    x = _layers(m, embedding, residual, lambda h: m.attention(h, rope))
    m.output(x, scale=1 / (m.w.number("logit_scale", 256 / m.n_embd) or 1.0))


def minicpm3(m: Layers) -> None:
    """As minicpm with the same scales in all files, but with latent attention."""
    rope = m.rope_frequencies("halves")
    x = _layers(m, 12.0, 1.4 * m.n_layer**-0.5, lambda h: m.project(mla.attend_heads(m, h, rope)))
    m.output(x, scale=256 / m.n_embd)


def _layers(m: Layers, embedding: float, residual: float, attention: Callable[[Value], Value]) -> Value:
    x = m.embed(embedding or 1.0)
    for _ in m.layers():
        x = m.add(x, attention(m.norm(x, "attn_norm")), residual or 1.0)
        x = m.add(x, m.moe(m.norm(x, "ffn_norm"), normalise=True), residual or 1.0)
    return x

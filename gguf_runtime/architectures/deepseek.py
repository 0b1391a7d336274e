"""DeepSeek (2024), V2 (2024), V3 (2024), V3.2 (2025) and what follows them: Mistral Small 4, GLM-5."""

from __future__ import annotations

from typing import Literal

from ..operations import ScaleByPosition, Value
from . import mla
from .layers import Layers


def deepseek(m: Layers) -> None:
    """As llama, with experts whose weights do not sum to 1, and some for every token."""
    rope = m.rope_frequencies("pairs")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), lambda h: m.moe(h, normalise=False)))


def deepseek2_ocr(m: Layers) -> None:
    """The text part of DeepSeek-OCR: as deepseek, with halves that rotate."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.moe))


def deepseek2(m: Layers) -> None:
    """Latent attention; experts chosen by groups, and with a bias, in V3."""
    rope, growth = mla.rotation(m)
    rate, length = m.w.number("attention.temperature_scale", 0.0), m.w.count("attention.temperature_length", 1, least=0)

    def attention(h: Value) -> Value:
        if m.has("attn_kv_b"):
            return m.project(mla.attend_heads(m, h, rope, growth=growth))
        a = mla.absorbed(m, h, rope)
        if rate:
            a = a._replace(q=m.graph(ScaleByPosition(a.q, rate, length)))
        return m.project(mla.attend(m, a, growth=growth))

    m.output(m.pre_norm(m.embed(), attention, m.moe))


mistral4 = deepseek2


def deepseek32(m: Layers) -> None:
    """As deepseek2, but tokens see only the keys that an indexer finds for them."""
    _sparse(m, "halves", "softmax")


def glm_dsa(m: Layers) -> None:
    """As deepseek32, but the indexer's pairs rotate; some layers see the keys that were found for one before."""
    _sparse(m, "pairs", "sigmoid")


def _sparse(m: Layers, indexer_layout: Literal["pairs", "halves"], gating: str) -> None:
    rope, growth = mla.rotation(m)
    indexer_rope = rope._replace(layout=indexer_layout)
    keys: Value | None = None

    def attention(h: Value) -> Value:
        nonlocal keys
        a = mla.absorbed(m, h, rope)
        if keys is None or m.w.flag("attention.indexer.types", m.has("indexer.proj"), layer=m.i):
            keys = mla.best_keys(m, h, a.q_latent, indexer_rope)
        else:
            mla.ignore_indexer(m)
        return m.project(mla.attend(m, a, growth=growth, keys=keys))

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.moe(h, gating=gating)))

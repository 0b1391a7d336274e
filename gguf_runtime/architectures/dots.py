"""dots.llm1 (rednote 2025) and dots.note 3."""

from __future__ import annotations

from ..operations import Value
from . import mla
from .layers import Layers


def dots1(m: Layers) -> None:
    """As qwen3moe, with experts as DeepSeek-V3's."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=True), m.moe))


def dots3note(m: Layers) -> None:
    """Latent attention with a gate for each head; layers have windows, or see only the keys an indexer finds."""
    rope = m.rope_frequencies("pairs", factors=False)
    local = m.rope_frequencies("pairs", base=m.w.number("rope.freq_base_swa"), factors=False)
    m.w.ignore("attention.indexer.types", "attention.key_length_swa", "attention.value_length_swa")

    def attention(h: Value) -> Value:
        if window := m.window():
            o = mla.attend(m, mla.absorbed(m, h, local, suffix="_swa"), window=window)
        else:
            a = mla.absorbed(m, h, rope)
            o = mla.attend(m, a, keys=mla.best_keys(m, h, a.q_latent, rope._replace(layout="halves")))
        return m.project(m.gate(o, h))

    m.output(m.pre_norm(m.embed(), attention, m.moe))

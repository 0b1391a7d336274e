"""EXAONE 3 (LG AI Research 2024), 4 and K-EXAONE (2025)."""

from __future__ import annotations

from ..operations import Value
from .layers import Layers


def exaone(m: Layers) -> None:
    """As llama, but with halves that rotate."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.ffn))


def exaone4(m: Layers) -> None:
    """Norms after each block. The model of 64 layers has windows in three of four, and no positions in the others."""
    rope = m.rope_frequencies("halves")
    windows = m.n_layer == 64
    m.w.ignore("attention.sliding_window", "attention.sliding_window_pattern")  # in files of the small ones too
    x = m.embed()
    for _ in m.layers():
        window = m.window(4, size=4096) if windows else 0
        h = m.attention(x, rope if window or not windows else None, qk_norm=True, window=window)
        x = m.add(x, m.norm(h, "post_attention_norm"))
        x = m.add(x, m.norm(m.ffn(x), "post_ffw_norm"))
    m.output(x)


def exaone_moe(m: Layers) -> None:
    """Norms before each block; windows and positions as the larger exaone4, experts as DeepSeek-V3's."""
    rope = m.rope_frequencies("halves")

    def attention(h: Value) -> Value:
        window = m.window(4, size=128)
        return m.attention(h, rope if window else None, qk_norm=True, window=window)

    m.output(m.pre_norm(m.embed(), attention, m.moe))

"""ERNIE 4.5 (Baidu 2025), dense and with experts, and PaddleOCR-VL's text part."""

from __future__ import annotations

from .layers import Layers


def ernie4_5(m: Layers) -> None:
    """As llama; the weights of experts, which a bias helps to choose, sum to 1."""
    rope = m.rope_frequencies("pairs")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), lambda h: m.moe(h, normalise=True)))


ernie4_5_moe = ernie4_5


def paddleocr(m: Layers) -> None:
    """As ernie4_5, with halves that rotate."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.ffn))

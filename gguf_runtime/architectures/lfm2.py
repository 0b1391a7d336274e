"""LFM2 (Liquid AI 2025): short convolutions with gates, and some layers of attention."""

from __future__ import annotations

from ..operations import Mul, Value
from .layers import Layers
from .state_space import convolve


def lfm2(m: Layers) -> None:
    rope = m.rope_frequencies("halves")
    window = m.w.count("attention.sliding_window", 0, least=0)
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        y = m.attention(h, rope, qk_norm=True, window=window) if m.n_head_kv else _short_convolution(m, h)
        x = m.add(x, y)
        h = m.norm(x, "ffn_norm")
        x = m.add(x, m.moe(h, gating=m.gating(), normalise=True))
    m.output(x, norm="token_embd_norm")  # the name that files give to the last norm


lfm2moe = lfm2


def _short_convolution(m: Layers, h: Value) -> Value:
    """Gates before a convolution over a few tokens, and after it."""
    b, c, x = m.slices(h, "shortconv.in_proj", *[(m.n_embd, 1)] * 3)
    y = convolve(m, m.graph(Mul(b, x)), "shortconv.conv", "shortconv.l_cache")
    return m.linear(m.graph(Mul(c, y)), "shortconv.out_proj", m.n_embd)

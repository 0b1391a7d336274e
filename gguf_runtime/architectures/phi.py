"""Phi 2 (Javaheripi et al. 2023), 3, 4 (Abdin et al. 2024) and Phi-3.5-MoE."""

from __future__ import annotations

import warnings

from .layers import Layers


def phi2(m: Layers) -> None:
    """Attention and feed-forward side by side, on one LayerNorm; biases everywhere."""
    rope = m.rope_frequencies("halves")
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(m.add(x, m.attention(h, rope)), m.ffn(h, "gelu", gated=False))
    m.output(x)


def phi3(m: Layers) -> None:
    """As llama, with fused matrices and LongRoPE."""
    _ignore_window(m)
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.ffn))


def phimoe(m: Layers) -> None:
    """As phi3, with biases, of the norms too, and experts."""
    _ignore_window(m)
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), lambda h: m.experts(h, m.route(h))))


def _ignore_window(m: Layers) -> None:
    """Files tell a window, but not of which layers it is, and converters have written wrong ones."""
    window = m.w.count("attention.sliding_window", 0, least=0)
    if 0 < window < m.n_ctx:
        warnings.warn(f"a window of {window} tokens is in the file, and ignored: tokens see all", stacklevel=2)

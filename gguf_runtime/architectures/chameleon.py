"""Chameleon (Meta 2024), its text part."""

from __future__ import annotations

import numpy as np

from ..operations import Norm, Value
from .layers import Layers

_IMAGE_TOKENS = slice(4, 8196)
_NEVER = -3e38


def chameleon(m: Layers) -> None:
    """As llama, with a LayerNorm of queries and keys for each head; in 34B norms come after blocks, as in Swin."""
    rope, norms_after = m.rope_frequencies("pairs"), m.w.flag("swin_norm")

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        q, k = m.rotate(_norm(m, q, "attn_q_norm"), _norm(m, k, "attn_k_norm"), rope)
        return m.project(m.attend(q, k, v))

    x = m.embed()
    for _ in m.layers():
        for block, norm in (attention, "attn_norm"), (m.ffn, "ffn_norm"):
            x = m.add(x, m.norm(block(x), norm) if norms_after else block(m.norm(x, norm)))
    bias = np.zeros(m.n_vocab)
    bias[_IMAGE_TOKENS] = _NEVER  # it draws no pictures
    m.output(x, bias=m.constant("no_images.bias", bias))


def _norm(m: Layers, x: Value, name: str) -> Value:
    shape = x.heads, x.width
    return m.graph(Norm(x, m.tensor(f"{name}.weight", *shape), 1e-5, "layer", m.optional(f"{name}.bias", *shape)))

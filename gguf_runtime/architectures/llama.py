"""Llama 1 to 3.3, Mistral, SmolLM, TinyLlama (Touvron et al. 2023) and Mixtral (Jiang et al. 2024)."""

from __future__ import annotations

from .hparams import ModelError
from .layers import Layers


def llama(m: Layers) -> None:
    """Pre-norm layers of grouped-query attention with RoPE, and a SwiGLU feed-forward or experts."""
    rope = m.rope_frequencies("pairs")
    scale = m.w.number("attention.scale", 0.0)
    window = m.w.count("attention.sliding_window", 0, least=0)
    if 0 < window < m.n_ctx:
        raise ModelError(f"attention with a sliding window is not supported: ask for a context of {window} with -c")
    x = m.embed()
    for _ in m.layers():
        x = m.add(x, m.attention(m.norm(x, "attn_norm"), rope, scale=scale))
        h = m.norm(x, "ffn_norm")
        x = m.add(x, m.experts(h, m.route(h), n_ff=m.n_ff) if m.n_expert else m.ffn(h))
    m.output(x)

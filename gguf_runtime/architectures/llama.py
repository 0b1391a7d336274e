"""Llama 1 to 3.3, Mistral, SmolLM, TinyLlama (Touvron et al. 2023) and Mixtral (Jiang et al. 2024)."""

from __future__ import annotations

from ..operations import ScaleByPosition, Value
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


def mistral3(m: Layers) -> None:
    """Ministral 3, Devstral 2: queries grow with the position, beyond the context before YaRN."""
    rope = m.rope_frequencies("pairs", yarn_mu=m.w.number("rope.scaling.yarn_log_multiplier", 0.0))
    scale, rate = m.w.number("attention.scale", 0.0), m.w.number("attention.temperature_scale", 0.0)
    length = m.w.count("rope.scaling.original_context_length", m.w.count("context_length"))

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        q, k = m.rotate(q, k, rope)
        if rate:
            q = m.graph(ScaleByPosition(q, rate, length))
        return m.project(m.attend(q, k, v, scale=scale))

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.experts(h, m.route(h)) if m.n_expert else m.ffn(h)))

"""Llama 1 to 3.3 (Touvron et al. 2023), Mistral, Mixtral (Jiang et al. 2024), and models that differ little."""

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
    x = m.pre_norm(m.embed(), lambda h: m.attention(h, rope, scale=scale), lambda h: m.moe(h, normalise=True))
    m.output(x)


internlm2 = xverse = llama


def llada(m: Layers) -> None:
    """A diffusion model (Nie et al. 2025): it sees the whole text."""
    m.causal = False
    llama(m)


def pangu_embedded(m: Layers) -> None:
    """As llama, with biases in attention, and halves that rotate."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.ffn))


def cogvlm(m: Layers) -> None:
    """As pangu_embedded; layers have a second set of matrices, for images."""
    m.w.ignore(*(f"blk.{i}.vis_{name}.weight" for i in range(m.n_layer) for name in _VISION))
    pangu_embedded(m)


_VISION = "attn_qkv", "attn_output", "gate", "up", "down"


def refact(m: Layers) -> None:
    """As llama, with ALiBi instead of RoPE."""
    m.output(m.pre_norm(m.embed(), lambda h: m.project(m.attend(*m.qkv(h), alibi=8.0)), m.ffn))


def baichuan(m: Layers) -> None:
    """As llama; of 40 layers, which is 13B, with ALiBi instead of RoPE."""
    m.w.ignore("rope.freq_base", "rope.dimension_count")  # in files of both
    (refact if m.n_layer == 40 else llama)(m)


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

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.moe(h, normalise=True)))


def llada_moe(m: Layers) -> None:
    """LLaDA with experts whose weights do not sum to 1, norms of queries and keys, and halves that rotate."""
    m.causal = False
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=True), lambda h: m.moe(h, normalise=False)))

"""Models after GPT-2 (Radford et al. 2019): LayerNorms, GELU without a gate, biases.

StarCoder (Li et al. 2023) and 2 (2024), CodeShell (2024), GPT-NeoX, Pythia (Black et al. 2022), BLOOM (2022),
MPT (MosaicML 2023), Jais (Sengupta et al. 2023) and 2, Nemotron (2024), Orion (2024).
"""

from __future__ import annotations

from ..operations import Embed, Value
from .layers import Layers


def gpt2(m: Layers) -> None:
    """Positions are learned."""
    m.output(m.pre_norm(_embed_with_positions(m), lambda h: m.attention(h, None), lambda h: _ffn(m, h)))


starcoder = gpt2


def starcoder2(m: Layers) -> None:
    """With RoPE."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), lambda h: _ffn(m, h)))


codeshell = starcoder2


def gptneox(m: Layers) -> None:
    """RoPE over a part of each head; attention and feed-forward side by side, each with its norm, or in turn."""
    rope = m.rope_frequencies("halves")
    parallel = m.w.flag("use_parallel_residual", True)
    x = m.embed()
    for _ in m.layers():
        y = m.add(x, m.attention(m.norm(x, "attn_norm"), rope))
        x = m.add(y, _ffn(m, m.norm(x if parallel else y, "ffn_norm")))
    m.output(x)


def bloom(m: Layers) -> None:
    """ALiBi, and a norm of the embedding."""
    x = m.norm_embedding(m.embed())
    m.output(m.pre_norm(x, lambda h: m.project(m.attend(*m.qkv(h), alibi=8.0)), lambda h: _ffn(m, h)))


def mpt(m: Layers) -> None:
    """ALiBi, or learned positions, and norms of all heads of queries and keys, where there are some; no biases."""
    alibi = m.w.number("attention.max_alibi_bias", 0.0, at_least=0)

    def attention(h: Value) -> Value:
        q, k, v = m.qkv(h)
        if m.has("attn_q_norm"):
            q, k = m.qk_norm_across(q, k)
        return m.project(m.attend(q, k, v, alibi=alibi))

    x = _embed_with_positions(m) if m.w.has("position_embd.weight") else m.embed()
    m.output(m.pre_norm(x, attention, lambda h: _ffn(m, h)))


def jais(m: Layers) -> None:
    """ALiBi, a SwiGLU, and attention that is scaled by the width of a head, not its root (muP)."""
    alibi = m.w.number("attention.max_alibi_bias", 0.0, at_least=0)
    scale = 1 / m.head_dim
    m.output(m.pre_norm(m.embed(), lambda h: m.project(m.attend(*m.qkv(h), scale=scale, alibi=alibi)), m.ffn))


def nemotron(m: Layers) -> None:
    """RoPE over a part of each head, and the square of a ReLU."""
    rope = m.rope_frequencies("halves")
    x = m.pre_norm(m.embed(), lambda h: m.attention(h, rope), lambda h: m.ffn(h, "squared_relu", gated=False))
    m.output(x)


jais2 = nemotron


def orion(m: Layers) -> None:
    """RoPE and a SwiGLU, but LayerNorms."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.ffn))


def _embed_with_positions(m: Layers) -> Value:
    table = m.w.tensor("position_embd.weight", m.w.count("context_length"), m.n_embd)
    return m.add(m.embed(), m.graph(Embed(table, by="position")))


def _ffn(m: Layers, h: Value) -> Value:
    return m.ffn(h, "gelu", gated=False)

"""BERT (Devlin et al. 2018) and the encoders that keep its norms after each sum: Nomic Embed, Jina Embeddings."""

from __future__ import annotations

from ..operations import Add, Embed, RopeFrequencies, Scale, Value
from .layers import Layers


def bert(m: Layers) -> None:
    """Learned positions, and a feed-forward with GELU."""
    positions = m.graph(Embed(m.w.tensor("position_embd.weight", m.w.count("context_length"), m.n_embd), by="position"))
    m.encoded(_layers(m, m.graph(Add(_embedding(m), positions)), None, "gelu"))


def nomic_bert(m: Layers) -> None:
    """RoPE and a SwiGLU feed-forward."""
    m.encoded(_layers(m, _embedding(m), m.rope_frequencies("halves"), "silu"))


def jina_bert_v3(m: Layers) -> None:
    """RoPE, and else as bert."""
    m.encoded(_layers(m, _embedding(m), m.rope_frequencies("halves"), "gelu"))


def nomic_bert_moe(m: Layers) -> None:
    """As jina-bert-v3, with experts in every second layer."""
    m.w.ignore("moe_every_n_layers")  # the tensors tell it
    jina_bert_v3(m)


def jina_bert_v2(m: Layers) -> None:
    """ALiBi to both sides, and a GELU gate."""
    m.encoded(_layers(m, _embedding(m), None, "gelu", alibi=8.0))


def _embedding(m: Layers) -> Value:
    """Every token is of the first type, a sentence A."""
    x, name = m.embed(), "token_types.weight"
    if not m.w.has(name):
        return x
    types = m.w.rows(name, m.w.shape(name)[0], m.n_embd)
    return m.graph(Scale(x, bias=types.rows(0, 1)))


def _layers(m: Layers, x: Value, rope: RopeFrequencies | None, kind: str, *, alibi: float = 0.0) -> Value:
    m.causal = False
    x = m.norm_embedding(x)
    for _ in m.layers():
        q, k, v = m.qkv(x)
        if m.has("attn_q_norm"):
            q, k = m.qk_norm_across(q, k)
        q, k = m.rotate(q, k, rope)
        y = m.norm(m.add(m.project(m.attend(q, k, v, alibi=alibi)), x), "attn_output_norm")
        if m.has("attn_norm_2"):
            y = m.norm(m.add(y, x), "attn_norm_2")
        x = m.norm(m.add(_feed_forward(m, y, kind), y), "layer_output_norm")
    return x


def _feed_forward(m: Layers, h: Value, kind: str) -> Value:
    if m.has("ffn_gate_inp"):
        return m.experts(h, m.route(h, normalise=False), kind, gated=False)
    rows = m.w.shape(m.name("ffn_up.weight"))[0]  # twice as many hold a gate too
    return m.ffn(h, kind, gated=m.has("ffn_gate") or rows == 2 * m.n_ff)

"""T5 (Raffel et al. 2020) and Flan-T5: an encoder, and a decoder that looks at what that made of another text."""

from __future__ import annotations

from ..graph import Graph
from ..loader import Tensor
from ..operations import Attention, Keep, Value
from .hparams import ModelError
from .layers import Layers

_BUCKETS = "attention.relative_buckets_count"


def t5(m: Layers) -> None:
    """The encoder's graph ends with keys and values for the decoder's attention to it, a slot for each layer."""
    if m.result not in ("", "logits"):
        raise ModelError(f"{m.w.file.path}: an encoder with a decoder generates; t5encoder models give embeddings")
    m.decoder_start = m.w.count("decoder_start_token_id", 0, least=0)
    n_decoder = m.w.count("decoder_block_count", m.n_layer)
    source = m.last_norm(_encoder(m), "enc.output_norm")
    m.scope, m.n_layer = "dec.", n_decoder
    slots = [_keep(m, source) for _ in m.layers()]
    m.graph = Graph(encoder=m.graph)
    x = m.embed()
    for i in m.layers():
        x = m.add(x, _self_attention(m, m.norm(x, "attn_norm")))
        x = m.add(x, _cross_attention(m, m.norm(x, "cross_attn_norm"), slots[i]))
        x = m.add(x, _feed_forward(m, m.norm(x, "ffn_norm")))
    m.w.ignore("dec.blk.0.cross_attn_rel_b.weight")  # attention to the source does not look at distances
    m.output(x, norm="dec.output_norm")


def t5encoder(m: Layers) -> None:
    m.causal = False
    m.encoded(_encoder(m), norm="enc.output_norm")


def _encoder(m: Layers) -> Value:
    m.scope = "enc."
    x = m.embed()
    for _ in m.layers():
        x = m.add(x, _self_attention(m, m.norm(x, "attn_norm"), causal=False))
        x = m.add(x, _feed_forward(m, m.norm(x, "ffn_norm")))
    return x


def _self_attention(m: Layers, h: Value, *, causal: bool = True) -> Value:
    """Without scaling; a bias by distance stands for positions, the first layer's where one has none of its own."""
    n_head = m.n_head
    q, k = (m.linear(h, f"attn_{part}", n_head * m.head_dim, n_head) for part in "qk")
    v = m.linear(h, "attn_v", n_head * m.head_dim_v, n_head)
    o = Attention(q, k, v, m.new_slot(), n_head, v.width, 1.0, causal, bias=_distance_bias(m))
    return m.linear(m.graph(o), "attn_o", m.n_embd)


def _distance_bias(m: Layers) -> Tensor:
    shape = m.w.count(_BUCKETS), m.n_head
    name = "attn_rel_b.weight"
    return m.optional(name, *shape) or m.w.tensor(f"{m.scope}blk.0.{name}", *shape)


def _keep(m: Layers, source: Value) -> int:
    """Fills a slot with this decoder layer's keys and values of the source."""
    n_head, slot = m.n_head, m.new_slot()
    k = m.linear(source, "cross_attn_k", n_head * m.head_dim, n_head)
    m.graph(Keep(k, m.linear(source, "cross_attn_v", n_head * m.head_dim_v, n_head), slot))
    return slot


def _cross_attention(m: Layers, h: Value, slot: int) -> Value:
    n_head = m.n_head
    q = m.linear(h, "cross_attn_q", n_head * m.head_dim, n_head)
    o = Attention(q, None, None, slot, n_head, m.head_dim_v, 1.0, causal=False, source=True)
    return m.linear(m.graph(o), "cross_attn_o", m.n_embd)


def _feed_forward(m: Layers, h: Value) -> Value:
    """ReLU in T5, a gate with GELU in later ones."""
    return m.ffn(h, "gelu") if m.has("ffn_gate") else m.ffn(h, "relu", gated=False)

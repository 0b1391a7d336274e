"""The Llama family: Llama 1 to 3.3, Mistral, SmolLM, TinyLlama and all that are built alike.

Pre-norm layers of grouped-query attention with RoPE, and a SwiGLU feed-forward (Touvron et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import Graph, RopeFrequencies, Value
from .rope import frequencies
from .weights import ModelError, Weights


@dataclass(frozen=True)
class Llama:
    weights: Weights
    n_layer: int
    n_ctx_train: int
    n_vocab: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim_k: int
    head_dim_v: int
    eps: float
    rope: RopeFrequencies
    attention_scale: float

    def graph(self) -> Graph:
        g, w = Graph(), self.weights
        table = w.tensor("token_embd.weight", self.n_vocab, self.n_embd)
        x = g.embed(table)
        for i in range(self.n_layer):
            x = self.layer(g, x, i)
        x = g.norm(g.pick(x), w.tensor("output_norm.weight", self.n_embd), self.eps)
        g.linear(x, w.optional("output.weight", self.n_vocab, self.n_embd) or table)  # tied where there is none
        return g

    def layer(self, g: Graph, x: Value, i: int) -> Value:
        w, name = self.weights, f"blk.{i}."
        h = g.norm(x, w.tensor(name + "attn_norm.weight", self.n_embd), self.eps)
        x = g.add(x, self.attention(g, h, i))
        h = g.norm(x, w.tensor(name + "ffn_norm.weight", self.n_embd), self.eps)
        return g.add(x, self.feed_forward(g, h, i))

    def attention(self, g: Graph, h: Value, layer: int) -> Value:
        q = self.linear(g, h, f"blk.{layer}.attn_q", self.n_head * self.head_dim_k)
        k = self.linear(g, h, f"blk.{layer}.attn_k", self.n_head_kv * self.head_dim_k)
        v = self.linear(g, h, f"blk.{layer}.attn_v", self.n_head_kv * self.head_dim_v)
        q, k = g.rope(q, self.n_head, self.rope), g.rope(k, self.n_head_kv, self.rope)
        o = g.attention(q, k, v, layer, self.n_head, self.n_head_kv, self.attention_scale)
        return self.linear(g, o, f"blk.{layer}.attn_output", self.n_embd)

    def feed_forward(self, g: Graph, h: Value, layer: int) -> Value:
        gate = self.linear(g, h, f"blk.{layer}.ffn_gate", self.n_ff)
        up = self.linear(g, h, f"blk.{layer}.ffn_up", self.n_ff)
        return self.linear(g, g.swiglu(gate, up), f"blk.{layer}.ffn_down", self.n_embd)

    def linear(self, g: Graph, x: Value, name: str, n_rows: int) -> Value:
        w = self.weights
        return g.linear(x, w.tensor(name + ".weight", n_rows, x.width), w.optional(name + ".bias", n_rows))


def read(w: Weights) -> Llama:
    """The model in a file of architecture `llama`. Raises ModelError."""
    if w.file.metadata.get(w.prefix + "expert_count", 0):
        raise ModelError("models with experts (MoE) are not supported yet")
    n_embd, n_head = w.count("embedding_length"), w.count("attention.head_count")
    n_head_kv = w.count("attention.head_count_kv", n_head)
    if n_head % n_head_kv:
        raise ModelError(f"{n_head} attention heads cannot share {n_head_kv} key heads")
    head_dim_k = w.count("attention.key_length", max(n_embd // n_head, 1))
    n_rot = w.count("rope.dimension_count", head_dim_k)
    if n_rot > head_dim_k:
        raise ModelError(f"RoPE over {n_rot} dimensions, but a head has {head_dim_k}")
    embedding = w.file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{w.file.path}: tensor token_embd.weight is missing: a vocabulary without a model?")
    return Llama(
        weights=w,
        n_layer=w.count("block_count"),
        n_ctx_train=w.count("context_length"),
        n_vocab=embedding.shape[0],
        n_embd=n_embd,
        n_ff=w.count("feed_forward_length"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim_k=head_dim_k,
        head_dim_v=w.count("attention.value_length", max(n_embd // n_head, 1)),
        eps=w.number("attention.layer_norm_rms_epsilon"),
        rope=frequencies(w, "pairs", n_rot),
        attention_scale=w.number("attention.scale", 0.0) or head_dim_k**-0.5,
    )

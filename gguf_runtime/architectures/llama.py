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
    n_ff: tuple[int, ...]  # of each layer, and so the next two
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    eps: float
    rope: RopeFrequencies
    attention_scale: float

    def graph(self) -> Graph:
        g, w = Graph(), self.weights
        table = w.rows("token_embd.weight", self.n_vocab, self.n_embd)
        x = g.embed(table)
        for i in range(self.n_layer):
            x = self.layer(g, x, i)
        x = g.norm(g.pick(x), w.tensor("output_norm.weight", self.n_embd), self.eps)
        g.linear(x, w.optional_rows("output.weight", self.n_vocab, self.n_embd) or table)  # tied where there is none
        return g

    def layer(self, g: Graph, x: Value, i: int) -> Value:
        w, name = self.weights, f"blk.{i}."
        h = g.norm(x, w.tensor(name + "attn_norm.weight", self.n_embd), self.eps)
        x = g.add(x, self.attention(g, h, i))
        h = g.norm(x, w.tensor(name + "ffn_norm.weight", self.n_embd), self.eps)
        return g.add(x, self.feed_forward(g, h, i))

    def attention(self, g: Graph, h: Value, i: int) -> Value:
        n_head, n_head_kv = self.n_head[i], self.n_head_kv[i]
        q = self.linear(g, h, f"blk.{i}.attn_q", n_head * self.head_dim_k)
        k = self.linear(g, h, f"blk.{i}.attn_k", n_head_kv * self.head_dim_k)
        v = self.linear(g, h, f"blk.{i}.attn_v", n_head_kv * self.head_dim_v)
        q, k = g.rope(q, n_head, self.rope), g.rope(k, n_head_kv, self.rope)
        o = g.attention(q, k, v, i, n_head, n_head_kv, self.attention_scale)
        return self.linear(g, o, f"blk.{i}.attn_output", self.n_embd)

    def feed_forward(self, g: Graph, h: Value, i: int) -> Value:
        gate = self.linear(g, h, f"blk.{i}.ffn_gate", self.n_ff[i])
        up = self.linear(g, h, f"blk.{i}.ffn_up", self.n_ff[i])
        return self.linear(g, g.swiglu(gate, up), f"blk.{i}.ffn_down", self.n_embd)

    def linear(self, g: Graph, x: Value, name: str, n_rows: int) -> Value:
        w = self.weights
        return g.linear(x, w.tensor(name + ".weight", n_rows, x.width), w.optional(name + ".bias", n_rows))


def read(w: Weights, n_ctx: int) -> Llama:
    """The model in a file of architecture `llama`. Raises ModelError."""
    if w.has("expert_count"):
        raise ModelError("models with experts (MoE) are not supported yet")
    n_embd, n_layer, n_ctx_train = w.count("embedding_length"), w.n_layer, w.count("context_length")
    n_head = w.counts("attention.head_count", n_layer)
    n_head_kv = w.counts("attention.head_count_kv", n_layer, n_head)
    for heads, kv_heads in zip(n_head, n_head_kv, strict=True):
        if heads % kv_heads:
            raise ModelError(f"{heads} attention heads cannot share {kv_heads} key heads")
    head_dim = max(n_embd // n_head[0], 1)
    head_dim_k = w.count("attention.key_length", head_dim)
    n_rot = w.count("rope.dimension_count", head_dim_k)
    if n_rot > head_dim_k:
        raise ModelError(f"RoPE over {n_rot} dimensions, but a head has {head_dim_k}")
    window = w.count("attention.sliding_window") if w.has("attention.sliding_window") else 0
    if 0 < window < (n_ctx or n_ctx_train):
        raise ModelError(f"attention with a sliding window is not supported: ask for a context of {window} with -c")
    return Llama(
        weights=w,
        n_layer=n_layer,
        n_ctx_train=n_ctx_train,
        n_vocab=w.n_vocab,
        n_embd=n_embd,
        n_ff=w.counts("feed_forward_length", n_layer),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim_k=head_dim_k,
        head_dim_v=w.count("attention.value_length", head_dim),
        eps=w.number("attention.layer_norm_rms_epsilon", at_least=0),
        rope=frequencies(w, "pairs", n_rot, n_ctx or n_ctx_train),
        attention_scale=w.number("attention.scale", 0.0) or head_dim_k**-0.5,
    )

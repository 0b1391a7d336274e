"""The pieces that model families share: an architecture puts them together, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import count
from typing import Literal

from ..graph import Graph
from ..loader import Tensor
from ..operations import (
    Activate,
    Add,
    Attention,
    Combine,
    Embed,
    ExpertLinear,
    Gate,
    Linear,
    Mul,
    Norm,
    Rope,
    RopeFrequencies,
    Route,
    Scale,
    SelectRows,
    Value,
    View,
)
from . import rope
from .hparams import HParams, ModelError


class Layers:
    """Writes one model's graph: `graph`, from the hyperparameters `w`, for texts of up to n_ctx tokens.

    i: the layer that is written; names of tensors are those of its own ("attn_q" for blk.3.attn_q).
    """

    def __init__(self, w: HParams, n_ctx: int) -> None:
        self.w, self.n_ctx, self.graph = w, n_ctx, Graph()
        self.n_layer, self.n_embd, self.n_vocab = w.n_layer, w.count("embedding_length"), w.n_vocab
        self._state_slots = count(self.n_layer)  # attention has those of the layers' numbers

    @property
    def i(self) -> int:
        return self.graph.layer

    def layers(self) -> Iterator[int]:
        """The numbers of the layers, each while it is written."""
        for i in range(self.n_layer):
            self.graph.layer = i
            yield i
        self.graph.layer = self.n_layer

    def new_slot(self) -> int:
        """A slot of the cache for a state."""
        return next(self._state_slots)

    # hyperparameters

    @cached_property
    def norm_kind(self) -> tuple[Literal["rms", "layer"], float]:
        """The kind of norm, and its epsilon: a file has the key of one of the two."""
        if "attention.layer_norm_rms_epsilon" in self.w:
            return "rms", self.w.number("attention.layer_norm_rms_epsilon", at_least=0)
        return "layer", self.w.number("attention.layer_norm_epsilon", at_least=0)

    @property
    def n_head(self) -> int:
        """Heads of this layer; 0 in layers without attention."""
        return self.w.count("attention.head_count", layer=self.i, least=0)

    @property
    def n_head_kv(self) -> int:
        """KV heads of this layer; 0 in layers without attention."""
        return self.w.count("attention.head_count_kv", self.n_head, layer=self.i, least=0)

    @property
    def head_dim(self) -> int:
        """Width of a head of queries and keys."""
        return self.w.count("attention.key_length", self.n_embd // max(self.n_head, 1))

    @property
    def head_dim_v(self) -> int:
        return self.w.count("attention.value_length", self.n_embd // max(self.n_head, 1))

    @property
    def n_ff(self) -> int:
        return self.w.count("feed_forward_length", layer=self.i, least=0)

    def rope_frequencies(self, layout: Literal["pairs", "halves"], **options: float | bool) -> RopeFrequencies:
        """Those of rope.frequencies over `rope.dimension_count` columns; by default a head's."""
        n_rot = self.w.count("rope.dimension_count", self.head_dim)
        if n_rot > self.head_dim:
            raise ModelError(f"RoPE over {n_rot} dimensions, but a head has {self.head_dim}")
        return rope.frequencies(self.w, layout, n_rot, self.n_ctx, **options)  # type: ignore[arg-type]

    # tensors

    def name(self, name: str) -> str:
        return f"blk.{self.i}.{name}"

    def has(self, name: str) -> bool:
        """Whether this layer has such a tensor."""
        return self.w.has(self.name(f"{name}.weight"))

    def tensor(self, name: str, *shape: int) -> Tensor:
        return self.w.tensor(self.name(name), *shape)

    def optional(self, name: str, *shape: int) -> Tensor | None:
        return self.w.optional(self.name(name), *shape)

    # pieces

    def embed(self, scale: float = 1.0) -> Value:
        return self.graph(Embed(self.embedding, scale))

    @property
    def embedding(self) -> Tensor:
        return self.w.rows("token_embd.weight", self.n_vocab, self.n_embd)

    def norm(self, x: Value, name: str, *, size: int = 0) -> Value:
        """The model's kind of norm; weight of `size` numbers, by default those of one head of x."""
        kind, eps = self.norm_kind
        size = size or x.width
        weight, bias = self.optional(f"{name}.weight", size), self.optional(f"{name}.bias", size)
        return self.graph(Norm(x, weight or self.tensor(f"{name}.weight", size), eps, kind, bias))

    def head_norm(self, x: Value, name: str) -> Value:
        """The model's kind of norm of each head, with weights for each."""
        kind, eps = self.norm_kind
        return self.graph(Norm(x, self.tensor(f"{name}.weight", x.heads, x.width), eps, kind))

    def linear(self, x: Value, name: str, n_rows: int, heads: int = 1) -> Value:
        """Product with a matrix of the layer, with its bias if there is one."""
        bias = self.optional(f"{name}.bias", n_rows)
        return self.graph(Linear(x, self.tensor(f"{name}.weight", n_rows, x.size), bias, heads))

    def slices(self, x: Value, name: str, *parts: tuple[int, int]) -> list[Value]:
        """Products with parts of the rows of one matrix, in their order: (rows, heads) of each."""
        n_rows = sum(rows for rows, _ in parts)
        weight, bias = self.tensor(f"{name}.weight", n_rows, x.size), self.optional(f"{name}.bias", n_rows)
        made, first = [], 0
        for rows, heads in parts:
            end = first + rows
            made.append(self.graph(Linear(x, weight.rows(first, end), bias and bias.rows(first, end), heads)))
            first = end
        return made

    def qkv(self, h: Value) -> tuple[Value, Value, Value]:
        """Queries, keys and values, from three matrices or one."""
        n_head, n_kv, k_dim, v_dim = self.n_head, self.n_head_kv, self.head_dim, self.head_dim_v
        if not n_kv or not n_head or n_head % n_kv:
            raise ModelError(f"{n_head} attention heads cannot share {n_kv} key heads")
        if self.has("attn_qkv"):
            q, k, v = self.slices(h, "attn_qkv", (n_head * k_dim, n_head), (n_kv * k_dim, n_kv), (n_kv * v_dim, n_kv))
            return q, k, v
        q = self.linear(h, "attn_q", n_head * k_dim, n_head)
        k = self.linear(h, "attn_k", n_kv * k_dim, n_kv)
        return q, k, self.linear(h, "attn_v", n_kv * v_dim, n_kv)

    def qk_norm(self, q: Value, k: Value, *, across: bool = False) -> tuple[Value, Value]:
        """Norms of queries and keys: of each head, or `across` all of them."""
        made = []
        for x, name in (q, "attn_q_norm"), (k, "attn_k_norm"):
            if across:
                made.append(self.graph(View(self.norm(self.graph(View(x, 1)), name), x.heads)))
            else:
                made.append(self.norm(x, name))
        return made[0], made[1]

    def rotate(self, q: Value, k: Value, frequencies: RopeFrequencies | None) -> tuple[Value, Value]:
        if frequencies is None:
            return q, k
        return self.graph(Rope(q, frequencies)), self.graph(Rope(k, frequencies))

    def attend(self, q: Value, k: Value, v: Value, *, scale: float = 0.0, window: int = 0, softcap: float = 0.0,
               chunk: int = 0, alibi: float = 0.0, sinks: Tensor | None = None, causal: bool = True) -> Value:  # fmt: skip
        """Attention with a cache slot of the layer's number; scale: by default width^-½ of a head."""
        scale = scale or k.width**-0.5
        return self.graph(
            Attention(q, k, v, self.i, k.heads, v.width, scale, causal, window, chunk, sinks, softcap, alibi)
        )

    def project(self, o: Value) -> Value:
        """The end of attention."""
        return self.linear(o, "attn_output", self.n_embd)

    def attention(self, h: Value, frequencies: RopeFrequencies | None, *, qk_norm: bool = False, scale: float = 0.0,
                  window: int = 0, softcap: float = 0.0) -> Value:  # fmt: skip
        """Attention as most models have it: projections, norms of heads, rotation, attention, output."""
        q, k, v = self.qkv(h)
        if qk_norm:
            q, k = self.qk_norm(q, k)
        q, k = self.rotate(q, k, frequencies)
        return self.project(self.attend(q, k, v, scale=scale, window=window, softcap=softcap))

    def ffn(self, h: Value, kind: str = "silu", *, gated: bool = True, suffix: str = "", n_ff: int = 0) -> Value:
        """Feed-forward: down(activation(gate)·up), or without a gate down(activation(up)).

        The gate may be the first half of ffn_up's rows. suffix: of the tensors' names, as in ffn_up_shexp.
        """
        n_ff = n_ff or self.n_ff
        if not gated:
            y = self.graph(Activate(self.linear(h, f"ffn_up{suffix}", n_ff), kind))
        else:
            if self.has(f"ffn_gate{suffix}"):
                gate, up = self.linear(h, f"ffn_gate{suffix}", n_ff), self.linear(h, f"ffn_up{suffix}", n_ff)
            else:
                gate, up = self.slices(h, f"ffn_up{suffix}", (n_ff, 1), (n_ff, 1))
            y = self.graph(Gate(gate, up, kind))
        return self.linear(y, f"ffn_down{suffix}", self.n_embd)

    @property
    def n_expert(self) -> int:
        return self.w.count("expert_count", 0, least=0)

    def gating(self, default: int = 1) -> str:
        """The gating that `expert_gating_func` asks for, or the default."""
        kinds = {1: "softmax", 2: "sigmoid", 3: "softmax_used", 4: "sqrt_softplus"}
        number = self.w.count("expert_gating_func", default, least=0) or default
        if number not in kinds:
            raise ModelError(f"{self.w.prefix}expert_gating_func is {number}, which ggrun does not know")
        return kinds[number]

    def route(self, h: Value, *, gating: str = "softmax", normalise: bool = True, scale: float = 1.0) -> Value:
        """Which experts take each token; selection bias and groups where the file has them."""
        w, n = self.w, self.n_expert
        logits = self.linear(h, "ffn_gate_inp", n)
        groups = w.count("expert_group_count", 1, least=0) or 1
        used = w.count("expert_group_used_count", 1, least=0)
        groups, used = (groups, used) if groups > 1 else (1, 1)
        if n % groups or not 0 < used <= groups or not 0 < (n_used := w.count("expert_used_count")) <= n:
            raise ModelError(f"{n} experts in {groups} groups, of which {used} are used, make no sense")
        selection = self.optional("exp_probs_b.bias", n)
        return self.graph(Route(logits, n_used, gating, selection, groups, used, normalise, scale))

    def experts(self, h: Value, route: Value, kind: str = "silu", *, gated: bool = True, n_ff: int = 0) -> Value:
        """The routed experts' feed-forwards, summed."""
        n, n_ff = self.n_expert, n_ff or self.w.count("expert_feed_forward_length", self.n_ff)
        if not gated:
            y = self.graph(Activate(self.expert_linear(h, route, "ffn_up_exps", n_ff), kind))
        elif self.has("ffn_gate_up_exps"):
            both = self.tensor("ffn_gate_up_exps.weight", n, 2 * n_ff, h.width)
            gate, up = (self.graph(ExpertLinear(h, route, both.rows(at, at + n_ff))) for at in (0, n_ff))
            y = self.graph(Gate(gate, up, kind))
        else:
            gate, up = (self.expert_linear(h, route, f"ffn_{part}_exps", n_ff) for part in ("gate", "up"))
            y = self.graph(Gate(gate, up, kind))
        return self.graph(Combine(self.expert_linear(y, route, "ffn_down_exps", h.width), route))

    def expert_linear(self, x: Value, route: Value, name: str, n_rows: int) -> Value:
        weight = self.tensor(f"{name}.weight", self.n_expert, n_rows, x.width)
        return self.graph(ExpertLinear(x, route, weight, self.optional(f"{name}.bias", self.n_expert, n_rows)))

    def shared_expert(self, h: Value, n_ff: int, kind: str = "silu", *, gated: bool = True) -> Value:
        """An expert that every token passes, times sigmoid(x·ffn_gate_inp_shexp) where there is such a gate."""
        y = self.ffn(h, kind, gated=gated, suffix="_shexp", n_ff=n_ff)
        if self.has("ffn_gate_inp_shexp"):
            gate = self.graph(Linear(h, self.tensor("ffn_gate_inp_shexp.weight", 1, self.n_embd)))
            y = self.graph(Mul(y, self.graph(Activate(gate, "sigmoid"))))
        return y

    def add(self, x: Value, y: Value, scale: float = 1.0) -> Value:
        """The residual stream goes on."""
        return self.graph(Add(x, y, scale))

    def output(self, x: Value, *, norm: str = "output_norm", scale: float = 1.0, softcap: float = 0.0) -> None:
        """Logits of the wanted tokens; from the embedding's matrix where there is no other."""
        w = self.w
        x = self.graph(SelectRows(x))
        if norm:
            kind, eps = self.norm_kind
            weight, bias = w.tensor(f"{norm}.weight", self.n_embd), w.optional(f"{norm}.bias", self.n_embd)
            x = self.graph(Norm(x, weight, eps, kind, bias))
        matrix = w.optional_rows("output.weight", self.n_vocab, self.n_embd) or self.embedding
        y = self.graph(Linear(x, matrix, w.optional("output.bias", self.n_vocab)))
        if scale != 1:
            y = self.graph(Scale(y, scale))
        if softcap:
            self.graph(Activate(y, "softcap", (softcap,)))

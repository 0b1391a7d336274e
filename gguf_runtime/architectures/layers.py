"""The pieces that model families share: an architecture puts them together, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import count
from typing import Literal

import numpy as np

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
from . import pooling, rope
from .hparams import HParams, ModelError
from .pooling import Result

#: A kind of Activate and Gate, or what an architecture makes of gate and up.
Glu = str | Callable[[Value, Value], Value]


class Layers:
    """Writes one model's graph: `graph`, from the hyperparameters `w`, for texts of up to n_ctx tokens.

    i: the layer that is written; names of tensors are those of its own ("attn_q" for blk.3.attn_q).
    result: what the graph is to give. causal: whether tokens see only those before them; an architecture may know
    better than its files.
    """

    def __init__(self, w: HParams, n_ctx: int, result: Result = "") -> None:
        self.w, self.n_ctx, self.graph, self.result = w, n_ctx, Graph(), result
        self.n_layer, self.n_embd, self.n_vocab = w.n_layer, w.count("embedding_length"), w.n_vocab
        self.causal = w.flag("attention.causal", True)
        self.scope = ""  # before the names of layers' tensors, where a model has two stacks of layers
        self._state_slots = count(self.n_layer)

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
        """A slot of the cache beside those that have layers' numbers."""
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

    def recurrent(self, period: int) -> bool:
        """Whether this layer has a state instead of attention, which every `period` layers the last one has."""
        if self.w.is_array("attention.recurrent_layers"):
            return self.w.flag("attention.recurrent_layers", layer=self.i)
        return (self.i + 1) % self.w.count("full_attention_interval", period) != 0

    @property
    def n_ff(self) -> int:
        return self.w.count("feed_forward_length", layer=self.i, least=0)

    def window(self, period: int = 1, *, full_first: bool = False, size: int = 0) -> int:
        """How many tokens attention of this layer sees, itself the last; 0 for all.

        Of `period` layers the last one sees all, or the first. `attention.sliding_window_pattern` says otherwise:
        another period, or for each layer whether it has a window. size: where the file tells none.
        """
        key = "attention.sliding_window_pattern"
        n = self.w.count("attention.sliding_window", size, least=0)
        if self.w.is_array(key):
            return n if self.w.flag(key, layer=self.i) else 0
        period = self.w.count(key, period, least=0)
        full = period > 0 and self.i % period == (0 if full_first else period - 1)
        return 0 if full else n

    def rope_frequencies(
        self, layout: Literal["pairs", "halves"], *, n_rot: int = 0, **options: float | bool
    ) -> RopeFrequencies:
        """Those of rope.frequencies over n_rot columns; by default `rope.dimension_count`, or a head's."""
        self.w.ignore("rope.dimension_sections")  # axes of positions (M-RoPE), which are all the same for text
        n_rot = n_rot or self.w.count("rope.dimension_count", self.head_dim)
        return rope.frequencies(self.w, layout, n_rot, self.n_ctx, **options)  # type: ignore[arg-type]

    # tensors

    def name(self, name: str) -> str:
        return f"{self.scope}blk.{self.i}.{name}"

    def has(self, name: str) -> bool:
        """Whether this layer has such a tensor."""
        return self.w.has(self.name(f"{name}.weight"))

    def tensor(self, name: str, *shape: int) -> Tensor:
        return self.w.tensor(self.name(name), *shape)

    def optional(self, name: str, *shape: int) -> Tensor | None:
        return self.w.optional(self.name(name), *shape)

    def constant(self, name: str, values: np.ndarray) -> Tensor:
        """Numbers that an architecture computes, as a tensor of this layer."""
        return Tensor(self.name(name), values.shape, "F32", values.astype(np.float32).reshape(-1).view(np.uint8))

    # pieces

    def embed(self, scale: float = 1.0) -> Value:
        return self.graph(Embed(self.embedding, scale))

    @property
    def embedding(self) -> Tensor:
        return self.w.rows("token_embd.weight", self.n_vocab, self.n_embd)

    def norm(self, x: Value, name: str, *shape: int) -> Value:
        """The model's kind of norm; shape: of the weight, by default as wide as one head of x."""
        kind, eps = self.norm_kind
        shape = shape or (x.width,)
        return self.graph(
            Norm(x, self.tensor(f"{name}.weight", *shape), eps, kind, self.optional(f"{name}.bias", *shape))
        )

    def norm_embedding(self, x: Value) -> Value:
        """The norm between the embedding and the first layer."""
        kind, eps = self.norm_kind
        weight, bias = (self.w.optional(f"token_embd_norm.{part}", x.width) for part in ("weight", "bias"))
        return self.graph(Norm(x, weight, eps, kind, bias))

    def bare_norm(self, x: Value) -> Value:
        """The model's kind of norm of each head, without a weight."""
        kind, eps = self.norm_kind
        return self.graph(Norm(x, None, eps, kind))

    def linear(self, x: Value, name: str, n_rows: int, heads: int = 1) -> Value:
        """Product with a matrix of the layer, with its bias and its scale if there are such."""
        weight, bias = self.tensor(f"{name}.weight", n_rows, x.size), self.optional(f"{name}.bias", n_rows)
        if scale := self.optional(f"{name}.scale", 1):
            return self.graph(Scale(self.graph(Linear(x, weight, None, heads)), 1.0, scale, bias))
        return self.graph(Linear(x, weight, bias, heads))

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
        """Queries, keys and values, from three matrices or one; clamped, where the file says so."""
        n_head, n_kv, k_dim, v_dim = self.n_head, self.n_head_kv, self.head_dim, self.head_dim_v
        if not n_kv or not n_head or n_head % n_kv:
            raise ModelError(f"{n_head} attention heads cannot share {n_kv} key heads")
        if self.has("attn_qkv"):
            q, k, v = self.slices(h, "attn_qkv", (n_head * k_dim, n_head), (n_kv * k_dim, n_kv), (n_kv * v_dim, n_kv))
        else:
            q = self.linear(h, "attn_q", n_head * k_dim, n_head)
            k = self.linear(h, "attn_k", n_kv * k_dim, n_kv)
            v = self.linear(h, "attn_v", n_kv * v_dim, n_kv)
        if limit := self.w.number("attention.clamp_kqv", 0.0, at_least=0):
            q, k, v = (self.graph(Activate(x, "clamp", (-limit, limit))) for x in (q, k, v))
        return q, k, v

    def qk_norm(self, q: Value, k: Value) -> tuple[Value, Value]:
        """Norms of each head of queries and of keys, with one weight for all heads or one for each."""
        q_name, k_name = "attn_q_norm", "attn_k_norm"
        if len(self.w.shape(self.name(f"{q_name}.weight"))) == 2:
            return self.norm(q, q_name, q.heads, q.width), self.norm(k, k_name, k.heads, k.width)
        return self.norm(q, q_name), self.norm(k, k_name)

    def qk_norm_across(self, q: Value, k: Value) -> tuple[Value, Value]:
        """Norms of all heads of queries as one, and of all of keys."""
        q_flat, k_flat = (self.graph(View(x, 1)) for x in (q, k))
        q_normed, k_normed = self.norm(q_flat, "attn_q_norm"), self.norm(k_flat, "attn_k_norm")
        return self.graph(View(q_normed, q.heads)), self.graph(View(k_normed, k.heads))

    def rotate(self, q: Value, k: Value, frequencies: RopeFrequencies | None) -> tuple[Value, Value]:
        if frequencies is None:
            return q, k
        if 2 * len(frequencies.frequencies) > k.width:
            raise ModelError(f"RoPE over {2 * len(frequencies.frequencies)} dimensions, but a head has {k.width}")
        return self.graph(Rope(q, frequencies)), self.graph(Rope(k, frequencies))

    def attend(self, q: Value, k: Value, v: Value, *, scale: float = 0.0, window: int = 0, softcap: float = 0.0,
               chunk: int = 0, alibi: float = 0.0, sinks: Tensor | None = None,
               slot: int | None = None, keys: Value | None = None) -> Value:  # fmt: skip
        """Attention; scale: by default width^-½ of a head. slot: of the cache, by default of the layer's number."""
        scale, slot = scale or k.width**-0.5, self.i if slot is None else slot
        return self.graph(
            Attention(
                q, k, v, slot, k.heads, v.width, scale, self.causal, window, chunk, sinks, softcap, alibi, keys=keys
            )
        )

    def gate(self, o: Value, h: Value, kind: str = "sigmoid") -> Value:
        """Attention's result times activation(attn_gate·h): a number for each of it, or one for each head."""
        n_rows = self.w.shape(self.name("attn_gate.weight"))[0]
        if n_rows not in (o.heads, o.size):
            raise ModelError(f"{n_rows} gates do not fit {o.heads} heads of {o.width}")
        return self.graph(Mul(o, self.graph(Activate(self.linear(h, "attn_gate", n_rows, o.heads), kind))))

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

    def activate(self, up: Value, kind: Glu, gate: Value | None = None) -> Value:
        """The middle of a feed-forward: activation(gate)·up, or activation(up) where there is no gate."""
        if not isinstance(kind, str):
            return kind(gate or up, up)
        return self.graph(Gate(gate, up, kind) if gate else Activate(up, kind))

    def clamped_glu(self, key: str) -> Glu:
        """SwiGLU of gates up to a limit of the layer, and of up within it; 0 for no limit."""
        limit = self.w.number(key, 0.0, layer=self.i)

        def glu(gate: Value, up: Value) -> Value:
            gate = self.graph(Activate(gate, "clamp", (-math.inf, limit)))
            return self.graph(Gate(gate, self.graph(Activate(up, "clamp", (-limit, limit)))))

        return glu if limit > 1e-6 else "silu"

    def ffn(self, h: Value, kind: Glu = "silu", *, gated: bool = True, suffix: str = "", n_ff: int = 0) -> Value:
        """Feed-forward: down(activation(gate)·up), or without a gate down(activation(up)).

        The gate may be the first half of ffn_up's rows. suffix: of the tensors' names, as in ffn_up_shexp.
        """
        n_ff = n_ff or self.n_ff
        if not gated:
            y = self.activate(self.linear(h, f"ffn_up{suffix}", n_ff), kind)
        else:
            if self.has(f"ffn_gate{suffix}"):
                gate, up = self.linear(h, f"ffn_gate{suffix}", n_ff), self.linear(h, f"ffn_up{suffix}", n_ff)
            else:
                gate, up = self.slices(h, f"ffn_up{suffix}", (n_ff, 1), (n_ff, 1))
            y = self.activate(up, kind, gate)
        return self.linear(y, f"ffn_down{suffix}", self.n_embd)

    @property
    def n_expert(self) -> int:
        return self.w.count("expert_count", 0, least=0)

    @property
    def n_ff_expert(self) -> int:
        """The inner size of an expert, as its matrix tells: which key does depends on the architecture."""
        self.w.ignore("expert_feed_forward_length")
        return self.w.shape(self.name("ffn_down_exps.weight"))[-1]

    def route(self, h: Value, *, gating: str = "softmax", normalise: bool = True) -> Value:
        """Which experts take each token, by ffn_gate_inp·h."""
        return self.route_by(self.linear(h, "ffn_gate_inp", self.n_expert), gating=gating, normalise=normalise)

    def route_by(self, logits: Value, *, gating: str = "softmax", normalise: bool = True, by_logits: bool = False,
                 scale: Tensor | None = None, experts: Tensor | None = None) -> Value:  # fmt: skip
        """Which experts take each token; with a selection bias, groups and a factor where the file has them."""
        w, n, factor = self.w, self.n_expert, self.w.number("expert_weights_scale", 0.0) or 1.0
        groups = w.count("expert_group_count", 1, least=0) or 1
        used = w.count("expert_group_used_count", 1, least=0)
        groups, used = (groups, used) if groups > 1 else (1, 1)
        if n % groups or not 0 < used <= groups or not 0 < (n_used := w.count("expert_used_count", layer=self.i)) <= n:
            raise ModelError(f"{n} experts in {groups} groups, of which {used} are used, make no sense")
        selection = self.optional("exp_probs_b.bias", n) or self.optional("exp_probs_b", n)
        return self.graph(
            Route(logits, n_used, gating, selection, groups, used, normalise, factor, scale, by_logits, experts=experts)
        )

    def experts(self, h: Value, route: Value, kind: Glu = "silu", *, gated: bool = True) -> Value:
        """The routed experts' feed-forwards, summed by the route's weights."""
        return self.graph(Combine(self.each_expert(h, route, kind, gated=gated), route))

    def each_expert(self, h: Value, route: Value, kind: Glu = "silu", *, gated: bool = True) -> Value:
        """The routed experts' feed-forwards, one head for each; h has one head for all of them, or one for each."""
        n, n_ff = self.n_expert, self.n_ff_expert
        if not gated:
            y = self.activate(self.expert_linear(h, route, "ffn_up_exps", n_ff), kind)
        elif self.has("ffn_gate_up_exps"):
            both = self.tensor("ffn_gate_up_exps.weight", n, 2 * n_ff, h.width)
            gate, up = (self.graph(ExpertLinear(h, route, both.rows(at, at + n_ff))) for at in (0, n_ff))
            y = self.activate(up, kind, gate)
        else:
            gate, up = (self.expert_linear(h, route, f"ffn_{part}_exps", n_ff) for part in ("gate", "up"))
            y = self.activate(up, kind, gate)
        return self.expert_linear(y, route, "ffn_down_exps", h.width)

    def expert_linear(self, x: Value, route: Value, name: str, n_rows: int) -> Value:
        weight = self.tensor(f"{name}.weight", self.n_expert, n_rows, x.width)
        return self.graph(ExpertLinear(x, route, weight, self.optional(f"{name}.bias", self.n_expert, n_rows)))

    def moe(self, h: Value, kind: Glu = "silu", *, shared_kind: Glu | None = None, gating: str = "softmax",
            normalise: bool | None = None) -> Value:  # fmt: skip
        """Experts, and where there are some those that every token passes; in layers without experts a feed-forward.

        shared_kind: of the latter two, by default that of experts. gating, normalise: where the file's keys do not say
        how; normalise is None where they do.
        """
        shared_kind = shared_kind or kind
        # which layers these are keys tell by rules that differ by architecture, and tensors by being there
        self.w.ignore("leading_dense_block_count", "interleave_moe_layer_step")
        if not self.has("ffn_gate_inp"):
            return self.ffn(h, shared_kind)
        if normalise is None:
            gating, normalise = self.gating(gating), self.w.flag("expert_weights_norm")
        y = self.experts(h, self.route(h, gating=gating, normalise=normalise), kind)
        return self.add(y, self.shared_expert(h, shared_kind)) if self.has("ffn_up_shexp") else y

    def gating(self, default: str = "softmax") -> str:
        """How logits of experts become weights; default: where the file does not say so."""
        kinds = [default, "softmax", "sigmoid", "softmax_used", "sqrt_softplus"]
        kind = self.w.count("expert_gating_func", 0, least=0)
        if kind >= len(kinds):
            raise ModelError(f"{self.w.prefix}expert_gating_func is {kind}, which is not known")
        return kinds[kind]

    def shared_expert(self, h: Value, kind: Glu = "silu", *, gated: bool = True) -> Value:
        """Experts that every token passes, as one, times sigmoid(x·ffn_gate_inp_shexp) where there is such a gate."""
        self.w.ignore("expert_shared_count", "expert_shared_feed_forward_length")  # the tensor's own shape tells it
        n_ff = self.w.shape(self.name("ffn_down_shexp.weight"))[-1]
        y = self.ffn(h, kind, gated=gated, suffix="_shexp", n_ff=n_ff)
        if self.has("ffn_gate_inp_shexp"):
            gate = self.graph(Linear(h, self.tensor("ffn_gate_inp_shexp.weight", 1, self.n_embd)))
            y = self.graph(Mul(y, self.graph(Activate(gate, "sigmoid"))))
        return y

    def pre_norm(self, x: Value, attention: Callable[[Value], Value], feed_forward: Callable[[Value], Value], *,
                 second: str = "ffn_norm") -> Value:  # fmt: skip
        """All layers as most models have them: x += attention(norm x), x += feed_forward(norm x).

        second: the name of the norm before the feed-forward.
        """
        for _ in self.layers():
            x = self.add(x, attention(self.norm(x, "attn_norm")))
            x = self.add(x, feed_forward(self.norm(x, second)))
        return x

    def add(self, x: Value, y: Value, scale: float = 1.0) -> Value:
        """The residual stream goes on."""
        return self.graph(Add(x, y, scale))

    def output(self, x: Value, *, norm: str = "output_norm", scale: float = 1.0, softcap: float = 0.0) -> None:
        """Logits of the wanted tokens; from the embedding's matrix where there is no other."""
        w = self.w
        matrix = w.optional_rows("output.weight", self.n_vocab, self.n_embd) or self.embedding
        bias = w.optional("output.bias", self.n_vocab)
        if self.result not in ("", "logits"):
            self.encoded(x, norm=norm)
            return
        x = self.graph(SelectRows(x))
        y = self.graph(Linear(self.last_norm(x, norm) if norm else x, matrix, bias))
        if scale != 1:
            y = self.graph(Scale(y, scale))
        if softcap:
            self.graph(Activate(y, "softcap", (softcap,)))

    def encoded(self, x: Value, *, norm: str = "") -> None:
        """The end of an encoder: embeddings of the wanted tokens, or what `result` asks for of each sequence."""
        if self.result == "logits":
            raise ModelError(f"{self.w.file.path}: an encoder, which gives embeddings and has no next token")
        if self.result in ("", "embeddings"):
            x = self.graph(SelectRows(x))
        x = self.last_norm(x, norm) if norm else x
        pooling.pool(self.graph, self.w, x, self.result, self.norm_kind[1])

    def last_norm(self, x: Value, name: str) -> Value:
        kind, eps = self.norm_kind
        weight, bias = self.w.tensor(f"{name}.weight", x.width), self.w.optional(f"{name}.bias", x.width)
        return self.graph(Norm(x, weight, eps, kind, bias))

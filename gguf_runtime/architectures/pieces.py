"""What an architecture writes layers with: sizes, tensors, norms and products."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import count
from typing import Literal

import numpy as np

from ..graph import Graph
from ..loader import Tensor
from ..operations import (
    Add,
    Embed,
    Linear,
    Norm,
    Scale,
    Value,
)
from .hparams import HParams
from .pooling import Result

#: Whose norms are LayerNorm (Ba et al. 2016); others' are RMSNorm. The keys do not tell: files may have both.
_LAYER_NORMS = frozenset({
    "bert", "bloom", "codeshell", "cohere2", "command-r", "dbrx", "falcon", "gpt2", "gptneox", "jais", "jais2",
    "jina-bert-v2", "jina-bert-v3", "modern-bert", "mpt", "nemotron", "nomic-bert", "nomic-bert-moe", "olmo", "orion",
    "phi2", "rwkv6", "rwkv7", "stablelm", "starcoder", "starcoder2",
})  # fmt: skip


class Pieces:
    """Writes one model's graph: `graph`, from the hyperparameters `w`, for texts of up to n_ctx tokens.

    i: the layer that is written; names of tensors are those of its own ("attn_q" for blk.3.attn_q).
    result: what the graph is to give. causal: whether tokens see only those before them; an architecture may know
    better than its files. decoder_start: the token that a decoder after an encoder begins with.
    """

    def __init__(self, w: HParams, n_ctx: int, result: Result = "") -> None:
        self.w, self.n_ctx, self.graph, self.result = w, n_ctx, Graph(), result
        self.n_layer, self.n_embd, self.n_vocab = w.n_layer, w.count("embedding_length"), w.n_vocab
        self.causal = w.flag("attention.causal", True)
        self.decoder_start = 0
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
        """The kind of norm, and its epsilon."""
        rms, layer = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
        name = self.w.prefix[:-1]
        if name in _LAYER_NORMS or (name == "cohere2moe" and rms not in self.w):  # which comes with either
            self.w.ignore(rms)
            return "layer", self.w.number(layer, at_least=0)
        return "rms", self.w.number(rms, at_least=0)

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
            self.w.ignore("full_attention_interval")
            return self.w.flag("attention.recurrent_layers", layer=self.i)
        return (self.i + 1) % self.w.count("full_attention_interval", period) != 0

    @property
    def n_ff(self) -> int:
        return self.w.count("feed_forward_length", layer=self.i, least=0)

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
        return self.product(x, weight, bias, self.optional(f"{name}.scale", 1), heads)

    def slices(self, x: Value, name: str, *parts: tuple[int, int]) -> list[Value]:
        """Products with parts of the rows of one matrix, in their order: (rows, heads) of each."""
        n_rows = sum(rows for rows, _ in parts)
        weight, bias = self.tensor(f"{name}.weight", n_rows, x.size), self.optional(f"{name}.bias", n_rows)
        scale, made, first = self.optional(f"{name}.scale", 1), [], 0
        for rows, heads in parts:
            end = first + rows
            made.append(self.product(x, weight.rows(first, end), bias and bias.rows(first, end), scale, heads))
            first = end
        return made

    def product(self, x: Value, weight: Tensor, bias: Tensor | None, scale: Tensor | None, heads: int = 1) -> Value:
        """scale·weight·x + bias: NVFP4 needs a factor for its matrices, whose own scales have a small range."""
        if scale:
            return self.graph(Scale(self.graph(Linear(x, weight, None, heads)), 1.0, scale, bias))
        return self.graph(Linear(x, weight, bias, heads))

    def add(self, x: Value, y: Value, scale: float = 1.0) -> Value:
        """The residual stream goes on."""
        return self.graph(Add(x, y, scale))

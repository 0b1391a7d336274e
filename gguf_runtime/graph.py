"""A model as a list of operations: what an architecture writes, and backends compile, whole or in blocks.

Values are rows of f32, one row a token; an operation makes one value. Nothing here knows of devices,
threads or quantisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .loader import Tensor


class Value(NamedTuple):
    """A result: its number, the width of a row, and whether it has rows only for tokens whose logits are wanted."""

    number: int
    width: int
    picked: bool = False


class RopeFrequencies(NamedTuple):
    """How positions turn into angles: angle = position·frequency, cos and sin times `magnitude`."""

    layout: str  # "pairs": neighbours rotate together; "halves": elements half of n_rot apart
    frequencies: np.ndarray  # f64[n_rot / 2]
    magnitude: float = 1.0


class Input(NamedTuple):
    """What the block before made, a row for each token."""

    out: Value


class Embed(NamedTuple):
    out: Value
    table: Tensor


class Norm(NamedTuple):
    """RMS norm of each row, times a weight for each column."""

    out: Value
    x: Value
    weight: Tensor
    eps: float


class Linear(NamedTuple):
    out: Value
    x: Value
    weight: Tensor
    bias: Tensor | None


class Rope(NamedTuple):
    """Rotary position embedding of `n_heads` heads, side by side in a row."""

    out: Value
    x: Value
    n_heads: int
    frequencies: RopeFrequencies


class Attention(NamedTuple):
    """Causal attention of each token to its sequence, whose keys and values the layer's cache keeps.

    window: how many tokens each sees, itself the last; 0 for all.
    """

    out: Value
    q: Value
    k: Value
    v: Value
    layer: int
    n_heads: int
    n_kv_heads: int
    scale: float
    window: int


class SwiGlu(NamedTuple):
    """silu(gate)·up"""

    out: Value
    gate: Value
    up: Value


class Add(NamedTuple):
    out: Value
    a: Value
    b: Value


class Pick(NamedTuple):
    """The rows of the tokens whose logits are wanted."""

    out: Value
    x: Value


Op = Input | Embed | Norm | Linear | Rope | Attention | SwiGlu | Add | Pick


class KvShape(NamedTuple):
    """What one layer keeps of a token: heads, and the widths of a key and a value head."""

    n_heads: int
    k_dim: int
    v_dim: int


def values_read(op: Op) -> list[Value]:
    """The values that an operation reads."""
    return [value for name, value in op._asdict().items() if name != "out" and isinstance(value, Value)]


class Graph:
    """Operations in the order to run them; each method adds one and gives its value. The last value is the result."""

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self.ops = list(ops)

    @property
    def result(self) -> Value:
        """What the graph is for: logits of the wanted tokens, or activations of all for the next stage."""
        return self.ops[-1].out

    @property
    def tensors(self) -> list[Tensor]:
        """The weights, each once; of the embedding only single rows are read, so it is not among them."""
        read = (item for op in self.ops if not isinstance(op, Embed) for item in op)
        return list({item.name: item for item in read if isinstance(item, Tensor)}.values())

    @property
    def kv(self) -> dict[int, KvShape]:
        """What the cache keeps, by layer."""
        found = {}
        for op in self.ops:
            if isinstance(op, Attention):
                n = op.n_kv_heads
                found[op.layer] = KvShape(n, op.k.width // n, op.v.width // n)
        return found

    def blocks(self) -> list[Graph]:
        """The graph in the smallest pieces that can be on different devices; `join` puts them together again.

        A block ends with a sum that is all that is read later, the residual stream: in most models these are each
        layer's attention and its feed-forward, and last the output. The embedding is part of the first.
        """
        last_use = {value.number: i for i, op in enumerate(self.ops) for value in values_read(op)}
        found, begin, needed_until = [], 0, 0
        for i, op in enumerate(self.ops):
            if isinstance(op, Add) and needed_until <= i < len(self.ops) - 1 and not op.out.picked:
                found.append(self._block(begin, i + 1))
                begin = i + 1
            needed_until = max(needed_until, last_use.get(op.out.number, 0))
        return [*found, self._block(begin, len(self.ops))]

    def _block(self, begin: int, end: int) -> Graph:
        before = [Input(self.ops[begin - 1].out)] if begin else []
        return Graph([*before, *self.ops[begin:end]])

    def embed(self, table: Tensor) -> Value:
        return self._add(lambda out: Embed(out, table), table.shape[1])

    def norm(self, x: Value, weight: Tensor, eps: float) -> Value:
        return self._add(lambda out: Norm(out, x, weight, eps), x.width, x.picked)

    def linear(self, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
        return self._add(lambda out: Linear(out, x, weight, bias), weight.shape[0], x.picked)

    def rope(self, x: Value, n_heads: int, frequencies: RopeFrequencies) -> Value:
        return self._add(lambda out: Rope(out, x, n_heads, frequencies), x.width)

    def attention(
        self, q: Value, k: Value, v: Value, layer: int, n_heads: int, n_kv_heads: int, scale: float, window: int = 0
    ) -> Value:
        width = v.width // n_kv_heads * n_heads
        return self._add(lambda out: Attention(out, q, k, v, layer, n_heads, n_kv_heads, scale, window), width)

    def swiglu(self, gate: Value, up: Value) -> Value:
        return self._add(lambda out: SwiGlu(out, gate, up), gate.width)

    def add(self, a: Value, b: Value) -> Value:
        return self._add(lambda out: Add(out, a, b), a.width, a.picked)

    def pick(self, x: Value) -> Value:
        return self._add(lambda out: Pick(out, x), x.width, True)

    def _add(self, make: Callable[[Value], Op], width: int, picked: bool = False) -> Value:
        out = Value(len(self.ops), width, picked)
        self.ops.append(make(out))
        return out


def join(blocks: Sequence[Graph]) -> Graph:
    """Blocks that follow each other, as one graph."""
    return Graph([*blocks[0].ops, *(op for block in blocks[1:] for op in block.ops[1:])])

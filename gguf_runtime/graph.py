"""A model as operations in the order to run them: what an architecture writes, and backends compile.

Nothing here knows of devices, threads or quantisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from .loader import Tensor
from .operations import (
    Add,
    Attention,
    BestKeys,
    Embed,
    EmbedNgrams,
    Input,
    Keep,
    Op,
    Pool,
    Rows,
    SelectRows,
    Stateful,
    Value,
    tensors_read,
    values_read,
)


class KvShape(NamedTuple):
    """What one slot keeps of a token: heads, and the widths of a key and a value head."""

    n_heads: int
    k_dim: int
    v_dim: int


class CacheSlot(NamedTuple):
    """What a slot of the cache is for.

    kind: "full" keeps keys and values of every token, "latent" keys only, "window" those that are still seen;
    "state" keeps numbers that every token changes, so that a sequence cannot go back.
    """

    kind: Literal["full", "window", "latent", "state"]
    window: int = 0


class Graph:
    """Call it with an operation to add that; gives the value that the operation makes. The last one is the result.

    layer: which the operations that are added next belong to. encoder: the graph that reads a source text first, and
    fills slots that this one's attention looks at; both share a cache.
    """

    def __init__(self, ops: Iterable[Op] = (), encoder: Graph | None = None) -> None:
        self.ops = list(ops)
        self.encoder = encoder
        self.layer = 0

    def __call__(self, op: Op) -> Value:
        heads, width = op.shape
        made = Value(len(self.ops), heads, width, _rows(op), self.layer)
        self.ops.append(op._replace(out=made))
        return made

    @property
    def result(self) -> Value:
        """What the graph is for: logits of the wanted tokens, or activations of all for the next stage."""
        return self.ops[-1].out

    @property
    def tensors(self) -> list[Tensor]:
        """The weights, each once; of an embedding only single rows are read, so it is not among them."""
        read = (
            tensor for op in self._all_ops if not isinstance(op, Embed | EmbedNgrams) for tensor in tensors_read(op)
        )
        return list({tensor.name: tensor for tensor in read}.values())

    @property
    def kv(self) -> dict[int, KvShape]:
        """What the cache keeps of every token, by slot."""
        found = {}
        for op in self._all_ops:
            if isinstance(op, Attention) and op.k:
                found[op.slot] = KvShape(op.k.heads, op.k.width, op.v_width)
            elif isinstance(op, Keep):
                found[op.slot] = KvShape(op.k.heads, op.k.width, op.v.width if op.v else 0)
            elif isinstance(op, BestKeys):
                found[op.slot] = KvShape(1, op.k.width, 0)
        for op in self._all_ops:  # of summaries, what keys begin with are values too
            if isinstance(op, Attention) and op.summaries is not None:
                found[op.summaries] = found[op.summaries]._replace(v_dim=op.v_width)
        return found

    @property
    def slots(self) -> dict[int, CacheSlot]:
        """What each slot of the cache is for."""
        found: dict[int, CacheSlot] = {}
        for op in self._all_ops:
            if isinstance(op, Attention) and op.k:
                windowed = op.causal and all(0 < n <= op.window for n in self._windows(op.slot))
                kind: Literal["window", "full", "latent"] = "window" if windowed else "full" if op.v else "latent"
                found[op.slot] = CacheSlot(kind, op.window if windowed else 0)
            elif isinstance(op, BestKeys):
                found[op.slot] = CacheSlot("latent")
            elif isinstance(op, Keep):
                found[op.slot] = CacheSlot("full" if op.v else "latent")
            elif isinstance(op, Stateful):
                found[op.slot] = CacheSlot("state")
        return found

    def blocks(self) -> list[Graph]:
        """The graph in the smallest pieces that can be on different devices; `join` puts them together again.

        A block ends with a sum that is all that is read later, the residual stream: in most models these are each
        layer's attention and its feed-forward, and last the output. The embedding is part of the first. Operations
        that share a slot stay together, and so does a graph with an encoder.
        """
        if self.encoder:
            return [self]
        last_use = {value.number: i for i, op in enumerate(self.ops) for value in values_read(op)}
        last_slot = {op.slot: i for i, op in enumerate(self.ops) if isinstance(op, Attention)}
        found, begin, needed_until = [], 0, 0
        for i, op in enumerate(self.ops):
            if isinstance(op, Attention):
                needed_until = max(needed_until, last_slot[op.slot])
            if isinstance(op, Add) and needed_until <= i < len(self.ops) - 1 and op.out.rows == "token":
                found.append(self._block(begin, i + 1))
                begin = i + 1
            needed_until = max(needed_until, last_use.get(op.out.number, 0))
        return [*found, self._block(begin, len(self.ops))]

    @property
    def _all_ops(self) -> list[Op]:
        return [*(self.encoder.ops if self.encoder else []), *self.ops]

    def _windows(self, slot: int) -> list[int]:
        """How many tokens each operation sees that looks at a slot, 0 for all."""
        looking = (op for op in self._all_ops if isinstance(op, Attention))
        return [op.window if slot == op.slot else 0 for op in looking if slot in (op.slot, op.summaries)]

    def _block(self, begin: int, end: int) -> Graph:
        before = self.ops[begin - 1].out
        return Graph([*([Input(before, before)] if begin else []), *self.ops[begin:end]])


def join(blocks: Sequence[Graph]) -> Graph:
    """Blocks that follow each other, as one graph."""
    return Graph([*blocks[0].ops, *(op for block in blocks[1:] for op in block.ops[1:])], blocks[0].encoder)


def _rows(op: Op) -> Rows:
    """What the value that an operation makes has a row for."""
    if isinstance(op, SelectRows):
        return "selected"
    if isinstance(op, Pool):
        return "sequence"
    read = values_read(op)
    return read[0].rows if read else "token"

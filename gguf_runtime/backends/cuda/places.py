"""Where in a GPU's memory the values of a graph lie, and in which form: rows of f32, or of halves for products.

Nothing here needs a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ... import memory_plan
from ...fusion import Fused, Fusions, GatedProduct, RotatedAttention, Single, fuse
from ...operations import Gate, Norm, Op, Value
from .sizes import up

_WHOLE = 128  # halves are filled up to a multiple of this: to whole tiles of any type that fits the width


def fused_for_gpu(ops: Sequence[Op]) -> list[Fused]:
    """A graph's operations with those together that the GPU has kernels for."""
    return fuse(ops, Fusions(_can_gate, side_by_side=True, rotated_attention=True))


def _can_gate(fused: GatedProduct) -> bool:
    return fused.op.kind == "silu" and not fused.op.limit


class Rows(NamedTuple):
    """A value's rows: the address or offset of the first, and how many numbers on the next begins."""

    at: int
    stride: int
    halves: bool

    @property
    def row_bytes(self) -> int:
        return self.stride * (2 if self.halves else 4)


class Kind(NamedTuple):
    """Of values: bytes of all rows, numbers in a row, and whether they are halves."""

    n_bytes: int
    width: int
    halves: bool

    @property
    def stride(self) -> int:
        return up(self.width, _WHOLE) if self.halves else self.width


class Place(NamedTuple):
    """Some memory for values of one kind: what their rows are filled up with stays zero."""

    offset: int
    kind: Kind


class Places:
    """Places of values in one piece of memory, which graphs that run one after another share."""

    def __init__(self) -> None:
        self.pool: memory_plan.Pool[Kind, Place] = memory_plan.Pool(self._more)
        self.n_bytes = 0

    def _more(self, kind: Kind) -> Place:
        place = Place(self.n_bytes, kind)
        self.n_bytes += kind.n_bytes
        return place


def place(fused: Sequence[Fused], n_rows: int, n_selected: int, places: Places) -> dict[int, Rows]:
    """Where each value's rows lie, as offsets; adds to `places` what this graph needs more.

    n_rows, n_selected: rows at most of values for all tokens, and for those whose logits are wanted. Values that are
    not needed at the same time share memory.
    """
    normed = {
        item.op.out: item.op.x
        for item in fused
        if isinstance(item, Single) and isinstance(item.op, Norm) and item.op.x.heads == 1
    }

    def kind(item: Fused) -> Kind:
        halves, width = _makes_halves(item), sum(value.size for value in item.makes)
        n = n_rows if item.makes[0].rows == "token" else n_selected
        n_bytes = n * (up(width, _WHOLE) * 2 if halves else width * 4)
        return Kind(up(n_bytes, 256), width, halves)

    def made_by_reader(item: Fused) -> list[Value]:
        """Who reads a norm may make it itself, from what the norm reads."""
        return [normed[value] for value in item.reads if value in normed]

    found = memory_plan.plan(fused, places.pool, kind, _in_place, made_by_reader)
    return {
        number: Rows(offset + 4 * column, kind.stride, kind.halves)
        for number, ((offset, kind), column) in found.items()
    }


def _makes_halves(item: Fused) -> bool:
    if isinstance(item, Single):
        return isinstance(item.op, Gate) or (isinstance(item.op, Norm) and item.op.x.heads == 1)
    return isinstance(item, GatedProduct | RotatedAttention)


def _in_place(item: Fused) -> Value | None:
    """What an operation's kernel can write over: norms of heads are made where the heads are."""
    op = item.op if isinstance(item, Single) else None
    return op.x if isinstance(op, Norm) and op.x.heads > 1 else None

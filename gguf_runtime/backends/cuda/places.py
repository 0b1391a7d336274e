"""Where in a GPU's memory the values of a graph lie, and in which form: rows of f32, or of halves for products.

Nothing here needs a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ... import memory_plan
from ...fusion import (
    AddedProduct,
    Fused,
    Fusions,
    GatedExperts,
    GatedProduct,
    Products,
    RotatedAttention,
    Single,
    fuse,
)
from ...kernels.layout import FLOATS
from ...operations import (
    Activate,
    Attention,
    Gate,
    Linear,
    Norm,
    Op,
    Rope,
    Route,
    Scale,
    Value,
    View,
    values_read,
)
from .sizes import up

_WHOLE = 128  # halves are filled up to a multiple of this: to whole tiles of any type that fits the width
MOST_EXPERTS = 1024  # as in experts.cu
#: Kinds of gates, as functions.cuh calls them.
GATES = {
    kind: f"functions::gate<functions::{kind}>"
    for kind in ("silu", "gelu", "relu", "sigmoid", "squared_relu", "softplus", "tanh")
} | {"clamped_silu": "functions::clamped_gate"}
_WIDEST = 256  # heads for which there is attention on tensor cores


def fused_for_gpu(ops: Sequence[Op]) -> list[Fused]:
    """A graph's operations with those together that the GPU has kernels for, whose results are halves."""
    wanted = _only_for_products((value, isinstance(op, Linear)) for op in ops for value in values_read(op))

    def can_gate(fused: GatedProduct) -> bool:
        return fused.op.kind == "silu" and not fused.op.limit and fused.op.out.number in wanted

    def can_attend(op: Attention) -> bool:
        more = not op.causal or op.alibi or op.bias or op.keys or op.source or op.summaries is not None
        fits = op.q.width <= _WIDEST and op.v_width <= _WIDEST and op.q.width % 2 == 0
        return fits and not more and op.out.number in wanted

    def can_gate_experts(fused: GatedExperts) -> bool:
        limited = fused.op.limit and fused.op.kind != "clamped_silu"
        return fused.op.kind in GATES and not limited and fused.gate.weight.shape[0] <= MOST_EXPERTS

    return fuse(ops, Fusions(can_gate, can_gate_experts, side_by_side=True, rotated_attention=can_attend))


def halves_made(fused: Sequence[Fused]) -> set[int]:
    """Numbers of the values that are made as halves: nobody but products reads them. Those of experts: head by head."""
    wanted = _only_for_products((value, _multiplies(item, value)) for item in fused for value in item.reads)
    made = {item.makes[0].number for item in fused if _can_make_halves(item) and item.makes[0].number in wanted}
    return made | {item.op.out.number for item in fused if isinstance(item, GatedExperts)}


def norms_made_by_readers(fused: Sequence[Fused]) -> dict[int, Norm]:
    """RMS norms that products which are not added read: for one token, each of them makes the norm itself.

    What the norm is of must still be there when the last of them runs: not when something was added to it in place.
    """
    halves, made, changed = halves_made(fused), dict[int, Norm](), set[int]()
    for item in fused:
        op = item.op if isinstance(item, Single) else None
        if isinstance(op, Norm) and op.out.number in halves and has_one_weight(op) and op.x.width % 128 == 0:
            made[op.out.number] = op
        for value in item.reads:
            if value.number in made and (isinstance(item, AddedProduct) or made[value.number].x.number in changed):
                del made[value.number]
        if isinstance(item, AddedProduct):
            changed.add(item.onto.number)
    return made


def exact_products(fused: Sequence[Fused]) -> set[int]:
    """Numbers of the products that decide which experts are taken: they are few, and what is rounded may change much.

    Their weights and what these are multiplied with must be floats.
    """
    halves = halves_made(fused)
    makers = {value.number: item for item in fused for value in item.makes}
    found = set[int]()
    for item in fused:
        if isinstance(item, Single) and isinstance(item.op, Route):
            value = item.op.logits
            while isinstance(maker := makers[value.number], Single) and isinstance(maker.op, Scale | Activate | View):
                value = maker.op.x
            for op in maker.linears if isinstance(maker, Products) else ():
                if op.out == value and op.weight.type in FLOATS and op.x.number not in halves:
                    found.add(value.number)
    return found


def has_one_weight(op: Norm) -> bool:
    """Whether a norm is RMS, with one weight for each column of a head, and nothing else."""
    return op.kind == "rms" and op.weight is not None and not op.bias and math.prod(op.weight.shape) == op.x.width


def _only_for_products(reads: Iterable[tuple[Value, bool]]) -> set[int]:
    """Numbers of the values that are read, and each time to be multiplied with a matrix."""
    others, multiplied = set[int](), set[int]()
    for value, to_multiply in reads:
        (multiplied if to_multiply else others).add(value.number)
    return multiplied - others


def _multiplies(item: Fused, value: Value) -> bool:
    return isinstance(item, Products | GatedProduct) or (isinstance(item, AddedProduct) and item.linear.x == value)


def _can_make_halves(item: Fused) -> bool:
    if isinstance(item, GatedProduct | RotatedAttention):
        return True
    op = item.op if isinstance(item, Single) else None
    return isinstance(op, Gate | Attention) or (isinstance(op, Norm) and op.x.heads == 1)


class Rows(NamedTuple):
    """A value's rows: the address or offset of the first, and how many numbers on the next begins."""

    at: int
    stride: int
    halves: bool


def _stride(width: int, halves: bool, heads: int) -> int:
    return heads * up(width // heads, _WHOLE) if halves else width


class RowsKind(NamedTuple):
    """Of values: bytes of all rows, numbers in a row, whether they are halves, and parts that are filled up each."""

    n_bytes: int
    width: int
    halves: bool
    heads: int

    @property
    def stride(self) -> int:
        return _stride(self.width, self.halves, self.heads)


class Place(NamedTuple):
    """Some memory for values of one kind: what their rows are filled up with stays zero."""

    offset: int
    kind: RowsKind


class Places:
    """Places of values in one piece of memory, which graphs that run one after another share."""

    def __init__(self) -> None:
        self.pool: memory_plan.PlacePool[RowsKind, Place] = memory_plan.PlacePool(self._more)
        self.n_bytes = 0

    def _more(self, kind: RowsKind) -> Place:
        place = Place(self.n_bytes, kind)
        self.n_bytes += kind.n_bytes
        return place


def place(fused: Sequence[Fused], n_rows: int, n_selected: int, places: Places) -> dict[int, Rows]:
    """Where each value's rows lie, as offsets; adds to `places` what this graph needs more.

    n_rows, n_selected: rows at most of values for all tokens, and for those whose logits are wanted. Values that are
    not needed at the same time share memory.
    """
    halves, normed = halves_made(fused), norms_made_by_readers(fused)

    def kind(item: Fused) -> RowsKind:
        width, of_halves = sum(value.size for value in item.makes), item.makes[0].number in halves
        n = n_selected if item.makes[0].rows == "selected" else n_rows
        heads = item.op.out.heads if isinstance(item, GatedExperts) else 1
        n_bytes = n * _stride(width, of_halves, heads) * (2 if of_halves else 4)
        return RowsKind(up(n_bytes, 256), width, of_halves, heads)

    def made_by_reader(item: Fused) -> list[Value]:
        """Who reads a norm may make it itself, from what the norm reads."""
        return [normed[value.number].x for value in item.reads if value.number in normed]

    found = memory_plan.plan(fused, places.pool, kind, _in_place, made_by_reader)
    return {
        number: Rows(offset + 4 * column, kind.stride, kind.halves)
        for number, ((offset, kind), column) in found.items()
    }


def _in_place(item: Fused) -> Value | None:
    """What an operation's kernel can write over: norms of heads, and rotations, are made where the heads are."""
    op = item.op if isinstance(item, Single) else None
    return op.x if isinstance(op, Rope) or (isinstance(op, Norm) and op.x.heads > 1) else None

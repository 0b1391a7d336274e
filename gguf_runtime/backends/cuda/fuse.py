"""A graph as the GPU runs it: operations that are done together, and where in memory their values lie.

Nothing here needs a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...graph import Add, Attention, Embed, Input, Linear, Norm, Op, Pick, Rope, SwiGlu, Value, values_read
from ..errors import PlanError


class Products(NamedTuple):
    """Products of one value, whose results lie side by side."""

    linears: tuple[Linear, ...]

    @property
    def reads(self) -> list[Value]:
        return [self.linears[0].x]

    @property
    def makes(self) -> list[Value]:
        return [linear.out for linear in self.linears]


class AddedProduct(NamedTuple):
    """A product that is added to a value, in place."""

    linear: Linear
    onto: Value
    out: Value

    @property
    def reads(self) -> list[Value]:
        return [self.linear.x, self.onto]

    @property
    def makes(self) -> list[Value]:
        return [self.out]


class Gate(NamedTuple):
    """silu(gate·x)·(up·x)"""

    gate: Linear
    up: Linear
    out: Value

    @property
    def reads(self) -> list[Value]:
        return [self.gate.x]

    @property
    def makes(self) -> list[Value]:
        return [self.out]


class Attend(NamedTuple):
    """Attention, with the rotation of queries and keys before it, if there is one."""

    op: Attention
    rope: Rope | None
    q: Value
    k: Value

    @property
    def reads(self) -> list[Value]:
        return [self.q, self.k, self.op.v]

    @property
    def makes(self) -> list[Value]:
        return [self.op.out]


class Plain(NamedTuple):
    """An operation by itself."""

    op: Input | Embed | Norm | SwiGlu | Add | Pick

    @property
    def reads(self) -> list[Value]:
        return values_read(self.op)

    @property
    def makes(self) -> list[Value]:
        return [self.op.out]


Fused = Products | AddedProduct | Gate | Attend | Plain


def fuse(ops: Sequence[Op]) -> list[Fused]:
    """Raises PlanError where the operations cannot be run on the GPU."""
    last_use = {value.number: i for i, op in enumerate(ops) for value in values_read(op)}
    n_uses: dict[int, int] = {}
    for op in ops:
        for value in values_read(op):
            n_uses[value.number] = n_uses.get(value.number, 0) + 1
    ropes: dict[int, Rope] = {}
    found: list[Fused] = []
    i = 0
    while i < len(ops):
        op, rest = ops[i], ops[i + 1 : i + 3]
        for value in values_read(op):
            if value.number in ropes and not isinstance(op, Attention):
                raise PlanError("rotated values that are not for attention: the GPU has no kernel for that yet")
        if isinstance(op, Linear) and _is_gate(op, rest, n_uses):
            assert isinstance(rest[0], Linear)
            found.append(Gate(op, rest[0], rest[1].out))
            i += 3
        elif isinstance(op, Linear) and (onto := _residual(op, rest, i, last_use)):
            found.append(AddedProduct(op, onto, rest[0].out))
            i += 2
        elif isinstance(op, Linear):
            linears = tuple(_side_by_side(op, ops[i:]))
            found.append(Products(linears))
            i += len(linears)
        elif isinstance(op, Rope):
            ropes[op.out.number] = op
            i += 1
        elif isinstance(op, Attention):
            found.append(_attend(op, ropes))
            i += 1
        elif isinstance(op, Input | Embed | Norm | SwiGlu | Add | Pick):
            found.append(Plain(op))
            i += 1
        else:
            raise PlanError(f"the GPU has no kernel for {type(op).__name__} yet")
    return found


def _is_gate(op: Linear, rest: Sequence[Op], n_uses: dict[int, int]) -> bool:
    if len(rest) < 2 or not isinstance(rest[0], Linear) or not isinstance(rest[1], SwiGlu):
        return False
    up, act = rest[0], rest[1]
    alike = op.x == up.x and op.weight.shape == up.weight.shape and not op.bias and not up.bias
    return alike and (act.gate, act.up) == (op.out, up.out) and n_uses[op.out.number] == n_uses[up.out.number] == 1


def _residual(op: Linear, rest: Sequence[Op], i: int, last_use: dict[int, int]) -> Value | None:
    """The value to which a product is added, where nobody needs either of them after."""
    if not rest or not isinstance(rest[0], Add) or op.out not in (rest[0].a, rest[0].b):
        return None
    other = rest[0].a if rest[0].b == op.out else rest[0].b
    alone = last_use[op.out.number] == last_use[other.number] == i + 1 and other not in (op.x, op.out)
    return other if alone else None


def _side_by_side(first: Linear, ops: Sequence[Op]) -> Iterator[Linear]:
    for op in ops:
        if not isinstance(op, Linear) or op.x != first.x:
            return
        yield op


def _attend(op: Attention, ropes: dict[int, Rope]) -> Attend:
    q, k = ropes.get(op.q.number), ropes.get(op.k.number)
    if q is None or k is None:
        if q or k or op.v.number in ropes:
            raise PlanError("attention with only one of queries and keys rotated: the GPU has no kernel for that yet")
        return Attend(op, None, op.q, op.k)
    if q.frequencies is not k.frequencies:
        raise PlanError("queries and keys that rotate differently: the GPU has no kernel for that yet")
    return Attend(op, q, q.x, k.x)


class Rows(NamedTuple):
    """A value's rows: the address or offset of the first, and how many numbers on the next begins."""

    at: int
    stride: int
    halves: bool

    @property
    def row_bytes(self) -> int:
        return self.stride * (2 if self.halves else 4)


_WHOLE = 128  # halves are filled up to a multiple of this: to whole tiles of any type that fits the width


class Places:
    """Where values lie in one piece of memory, which graphs that run one after another share: offsets, by their kind.

    Only values of one kind share a place: what their rows are filled up with stays zero.
    """

    def __init__(self) -> None:
        self.by_kind: dict[Kind, list[int]] = {}
        self.n_bytes = 0

    def more(self, kind: Kind) -> int:
        """One more place."""
        offset = self.n_bytes
        self.by_kind.setdefault(kind, []).append(offset)
        self.n_bytes += kind.n_bytes
        return offset


class Kind(NamedTuple):
    """Of values: bytes of all rows, numbers in a row, and whether they are halves."""

    n_bytes: int
    width: int
    halves: bool


def place(fused: Sequence[Fused], n_rows: int, n_picked: int, places: Places) -> dict[int, Rows]:
    """Where each value's rows lie, as offsets; adds to `places` what this graph needs more.

    n_rows, n_picked: rows at most of values for all tokens, and for those whose logits are wanted. Values that are
    not needed at the same time share memory.
    """
    normed = {item.op.out: item.op.x for item in fused if isinstance(item, Plain) and isinstance(item.op, Norm)}
    # who reads a norm may make it itself, from what the norm reads
    needs = [[*item.reads, *(normed[value] for value in item.reads if value in normed)] for item in fused]
    last_use = {value.number: i for i, values in enumerate(needs) for value in values}
    rows: dict[int, Rows] = {}
    home: dict[int, int] = {}  # value → offset of the memory that it is in
    tenants: dict[int, int] = {}  # offset → how many values are in it
    kinds: dict[int, Kind] = {}
    free = {kind: offsets[::-1] for kind, offsets in places.by_kind.items()}
    for i, item in enumerate(fused):
        made = item.makes
        if isinstance(item, AddedProduct):
            rows[item.out.number] = rows[item.onto.number]
            home[item.out.number] = home[item.onto.number]
            tenants[home[item.out.number]] += 1
        else:
            halves = isinstance(item, Gate | Attend) or (isinstance(item, Plain) and isinstance(item.op, Norm | SwiGlu))
            width = sum(value.width for value in made)
            stride = -(-width // _WHOLE) * _WHOLE if halves else width
            n = n_picked if made[0].picked else n_rows
            kind = Kind(-(-n * stride * (2 if halves else 4) // 256) * 256, width, halves)
            offset = free[kind].pop() if free.get(kind) else places.more(kind)
            kinds[offset], tenants[offset] = kind, len(made)
            column = 0
            for value in made:
                rows[value.number], home[value.number] = Rows(offset + 4 * column, stride, halves), offset
                column += value.width
        for value in dict.fromkeys([*needs[i], *made]):
            if last_use.get(value.number, len(fused)) == i:
                tenants[home[value.number]] -= 1
                if not tenants[home[value.number]]:
                    free.setdefault(kinds[home[value.number]], []).append(home[value.number])
    return rows

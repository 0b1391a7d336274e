"""What of a graph is computed together: found from its operations alone, once for all backends.

A backend says which fusions it takes (`Fusions`); what is not fused is a `Single`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .operations import Add, Attention, ExpertLinear, Gate, Linear, Op, Rope, Value, View, values_read


class Single(NamedTuple):
    """An operation by itself."""

    op: Op

    @property
    def reads(self) -> list[Value]:
        return values_read(self.op)

    @property
    def makes(self) -> list[Value]:
        return [self.op.out]


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


class GatedProduct(NamedTuple):
    """activation(gate·x)·(up·x)"""

    gate: Linear
    up: Linear
    op: Gate

    @property
    def reads(self) -> list[Value]:
        return [self.gate.x]

    @property
    def makes(self) -> list[Value]:
        return [self.op.out]


class GatedExperts(NamedTuple):
    """activation(gate·x)·(up·x) of each expert of a route, for one product of the same experts, `reader`."""

    gate: ExpertLinear
    up: ExpertLinear
    op: Gate
    reader: ExpertLinear

    @property
    def reads(self) -> list[Value]:
        return [self.gate.x, self.gate.route]

    @property
    def makes(self) -> list[Value]:
        return [self.op.out]


class RotatedAttention(NamedTuple):
    """Attention, with the rotation of queries and keys before it, if there is one. q, k: what is rotated."""

    op: Attention
    rope: Rope | None
    q: Value
    k: Value
    v: Value

    @property
    def reads(self) -> list[Value]:
        return [self.q, self.k, self.v]

    @property
    def makes(self) -> list[Value]:
        return [self.op.out]


Fused = Single | Products | AddedProduct | GatedProduct | GatedExperts | RotatedAttention


class Fusions(NamedTuple):
    """What a backend takes: products side by side; attention with its rotation, gates and gates of experts that it says
    yes to.

    Products are added to the residual stream in place by all.
    """

    gate: Callable[[GatedProduct], bool]
    experts: Callable[[GatedExperts], bool] = lambda fused: False
    side_by_side: bool = False
    rotated_attention: Callable[[Attention], bool] = lambda op: False


def fuse(ops: Sequence[Op], fusions: Fusions) -> list[Fused]:
    """The operations in their order, with those together that a backend takes so."""
    last_use = _last_uses(ops)
    n_uses = Counter(value.number for op in ops for value in values_read(op))
    rotated = _rotations(ops, n_uses, fusions)
    found: list[Fused] = []
    i = 0
    while i < len(ops):
        op = ops[i]
        gate = _gate(ops[i : i + 3], n_uses, fusions) or _gated_experts(ops[i : i + 4], n_uses, fusions)
        if gate:
            found.append(gate)
            i += 3
        elif isinstance(op, Linear) and (added := _added(ops, i, last_use)):
            found.append(added)
            i += 2
        elif isinstance(op, Linear) and fusions.side_by_side:
            linears = tuple(_side_by_side(op, ops[i:]))
            found.append(Products(linears))
            i += len(linears)
        elif op.out.number in rotated and isinstance(op, Rope):
            i += 1
        elif isinstance(op, Attention) and op.k and op.v and fusions.rotated_attention(op):
            q, k = rotated.get(op.q.number), rotated.get(op.k.number)
            found.append(RotatedAttention(op, q, q.x if q else op.q, k.x if k else op.k, op.v))
            i += 1
        else:
            found.append(Single(op))
            i += 1
    return found


def _gate(ops: Sequence[Op], n_uses: Counter[int], fusions: Fusions) -> GatedProduct | None:
    """Two products of one value that only a gate reads, which is next."""
    if len(ops) < 3:
        return None
    gate, up, op = ops
    if not (isinstance(gate, Linear) and isinstance(up, Linear) and isinstance(op, Gate)):
        return None
    alike = gate.x == up.x and gate.weight.shape == up.weight.shape and not gate.bias and not up.bias
    alone = n_uses[gate.out.number] == n_uses[up.out.number] == 1
    fused = GatedProduct(gate, up, op)
    return fused if alike and alone and (op.gate, op.up) == (gate.out, up.out) and fusions.gate(fused) else None


def _gated_experts(ops: Sequence[Op], n_uses: Counter[int], fusions: Fusions) -> GatedExperts | None:
    """Two products of the same experts that only a gate reads, which is next, and what alone reads that, after it."""
    if len(ops) < 4:
        return None
    gate, up, op, reader = ops
    if not (isinstance(gate, ExpertLinear) and isinstance(up, ExpertLinear) and isinstance(op, Gate)):
        return None
    if not isinstance(reader, ExpertLinear) or reader.x != op.out or (op.gate, op.up) != (gate.out, up.out):
        return None
    alike = gate.x == up.x and gate.route == up.route == reader.route and gate.weight.shape == up.weight.shape
    alone = all(n_uses[value.number] == 1 for value in (gate.out, up.out, op.out))
    fused = GatedExperts(gate, up, op, reader)
    return fused if alike and alone and fusions.experts(fused) else None


def _added(ops: Sequence[Op], i: int, last_use: dict[int, int]) -> AddedProduct | None:
    """A product that is added, by the next operation, to a value; and nobody needs either of them after."""
    op, following = ops[i], ops[i + 1] if i + 1 < len(ops) else None
    if not isinstance(op, Linear) or not isinstance(following, Add) or following.scale != 1:
        return None
    if op.out not in (following.a, following.b) or following.a.size != following.b.size:
        return None
    onto = following.a if following.b == op.out else following.b
    alone = last_use[op.out.number] == last_use[onto.number] == i + 1 and onto not in (op.x, op.out)
    return AddedProduct(op, onto, following.out) if alone else None


def _last_uses(ops: Sequence[Op]) -> dict[int, int]:
    """The last operation that reads each value, or a view of it, which is the same memory."""
    found: dict[int, int] = {}
    of: dict[int, int] = {}  # view → what it is a view of
    for i, op in enumerate(ops):
        for value in values_read(op):
            found[value.number] = found[of.get(value.number, value.number)] = i
        if isinstance(op, View):
            of[op.out.number] = of.get(op.x.number, op.x.number)
    return found


def _side_by_side(first: Linear, ops: Sequence[Op]) -> Iterator[Linear]:
    for op in ops:
        if not isinstance(op, Linear) or op.x != first.x:
            return
        yield op


def _rotations(ops: Sequence[Op], n_uses: Counter[int], fusions: Fusions) -> dict[int, Rope]:
    """Rotations that attention can make itself: of both its queries and its keys, alike, for nobody else."""
    ropes = {op.out.number: op for op in ops if isinstance(op, Rope) and not (op.offset or op.delay)}
    found: dict[int, Rope] = {}
    for op in ops:
        if isinstance(op, Attention) and op.k and op.v and fusions.rotated_attention(op):
            q, k = ropes.get(op.q.number), ropes.get(op.k.number)
            alone = n_uses[op.q.number] == n_uses[op.k.number] == 1
            if q and k and alone and q.frequencies is k.frequencies:
                found |= {op.q.number: q, op.k.number: k}
    return found

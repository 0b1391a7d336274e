"""What a graph allows to be computed together: found from its operations alone, before anything has a place."""

from __future__ import annotations

from collections import Counter

from ...graph import Add, Attention, Linear, Norm, Op, SwiGlu, Value, values_read
from ...kernels.isa import Isa
from ...kernels.layout import FLOATS, ROUNDED
from ...loader import Tensor


def form_for(weight: Tensor, isa: Isa) -> str:
    """The form in which weights of a type want their input: kinds of rows in kernels/cpu/records.py."""
    if weight.type == "BF16" and isa.dots_bfloats:
        return "bfloats"
    return "floats" if weight.type in FLOATS else "bytes"


def forms(ops: list[Op], isa: Isa) -> dict[int, str]:
    """Results that only products read, all in one form, and that can be made in it: the value's number → that form."""
    readers, found = _readers(ops), {}
    for op in ops:
        if isinstance(op, Norm | SwiGlu) or (isinstance(op, Attention) and op.out.width // op.n_heads % 32 == 0):
            reading = readers.get(op.out.number, [])
            wanted = {form_for(r.weight, isa) if isinstance(r, Linear) else "plain" for r in reading}
            if len(wanted) == 1:
                found[op.out.number] = wanted.pop()
    return found


def is_rounded(weight: Tensor, isa: Isa) -> bool:
    """Whether weights are rounded to bytes where tokens are many (kernels/cpu/rounding.py)."""
    return isa.dots_bytes and weight.type in ROUNDED


def to_rounded(ops: list[Op], isa: Isa) -> set[int]:
    """Values that, of many tokens, only products read whose weights are rounded to bytes."""
    return {
        number
        for number, reading in _readers(ops).items()
        if all(isinstance(op, Linear) and is_rounded(op.weight, isa) for op in reading)
    }


def _readers(ops: list[Op]) -> dict[int, list[Op]]:
    """Who reads each value, by its number."""
    found: dict[int, list[Op]] = {}
    for op in ops:
        for value in values_read(op):
            found.setdefault(value.number, []).append(op)
    return found


def gates(ops: list[Op]) -> dict[int, tuple[Linear, Linear]]:
    """SwiGlus whose two products can be computed with them: index → the products, which are the two ops before."""
    found = {}
    n_reads = Counter(v.number for op in ops for v in values_read(op))
    for i, (a, b, op) in enumerate(zip(ops, ops[1:], ops[2:], strict=False), 2):
        if (
            isinstance(a, Linear)
            and isinstance(b, Linear)
            and isinstance(op, SwiGlu)
            and (op.gate, op.up) == (a.out, b.out)
        ):
            alike = a.x == b.x and a.weight.type == b.weight.type and a.weight.shape == b.weight.shape
            if alike and not a.bias and not b.bias and n_reads[a.out.number] == n_reads[b.out.number] == 1:
                found[i] = a, b
    return found


def residuals(ops: list[Op]) -> dict[int, Value]:
    """Products whose result is only added to a value that is needed no longer: index → that value."""
    last_use = {v.number: i for i, op in enumerate(ops) for v in values_read(op)}
    found = {}
    for i, (op, following) in enumerate(zip(ops, ops[1:], strict=False)):
        if isinstance(op, Linear) and isinstance(following, Add) and op.out in (following.a, following.b):
            other = following.a if following.b == op.out else following.b
            if last_use[op.out.number] == last_use[other.number] == i + 1 and other not in (op.x, op.out):
                found[i] = other
    return found

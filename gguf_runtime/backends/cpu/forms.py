"""In which form each value is made on the CPU: plain rows of f32, or records that products read."""

from __future__ import annotations

from collections.abc import Sequence

from ...fusion import GatedExperts, GatedProduct
from ...kernels.isa import Isa
from ...kernels.layout import FLOATS, ROUNDED
from ...loader import Tensor
from ...operations import Attention, ExpertLinear, Gate, Linear, Norm, Op, values_read

#: Gates that there are kernels for.
GATES = {"silu", "gelu", "relu", "sigmoid", "clamped_silu"}


def form_for(weight: Tensor, isa: Isa) -> str:
    """The form in which weights of a type want their input: kinds of rows in kernels/cpu/activation_packing.py."""
    if weight.type == "BF16" and isa.dots_bfloats:
        return "bfloats"
    return "floats" if weight.type in FLOATS else "bytes"


def forms(ops: Sequence[Op], isa: Isa) -> dict[int, str]:
    """Results that only products read, all in one form, and that can be made in it: the value's number → that form."""
    readers, found = _readers(ops), {}
    for op in ops:
        if _makes_records(op):
            reading = readers.get(op.out.number, [])
            wanted = {form_for(r.weight, isa) if isinstance(r, Linear) else "plain" for r in reading}
            if len(wanted) == 1:
                found[op.out.number] = wanted.pop()
    return found


def is_rounded(weight: Tensor, isa: Isa) -> bool:
    """Whether weights are rounded to bytes where tokens are many (kernels/cpu/requantise.py)."""
    return isa.dots_bytes and weight.type in ROUNDED


def to_rounded(ops: Sequence[Op], isa: Isa) -> set[int]:
    """Values that, of many tokens, only products read whose weights are rounded to bytes."""
    return {
        number
        for number, reading in _readers(ops).items()
        if all(isinstance(op, Linear | ExpertLinear) and is_rounded(op.weight, isa) for op in reading)
    }


def can_gate(fused: GatedProduct) -> bool:
    """Whether there is a kernel for both products and the gate together."""
    return fused.op.kind == "silu" and not fused.op.limit and fused.gate.weight.type == fused.up.weight.type


def can_gate_experts(fused: GatedExperts) -> bool:
    """The same, of experts."""
    return fused.op.kind in GATES and fused.gate.weight.type == fused.up.weight.type


def _makes_records(op: Op) -> bool:
    """Whether the kernel of an operation can write records."""
    if isinstance(op, Norm):
        return op.x.heads == 1
    if isinstance(op, Gate):
        return op.kind != "clamped_silu"
    return isinstance(op, Attention) and op.out.width % 32 == 0


def _readers(ops: Sequence[Op]) -> dict[int, list[Op]]:
    """Who reads each value, by its number."""
    found: dict[int, list[Op]] = {}
    for op in ops:
        for value in values_read(op):
            found.setdefault(value.number, []).append(op)
    return found

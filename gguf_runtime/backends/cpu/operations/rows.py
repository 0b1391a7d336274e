"""Operations on rows: embedding, norms, activations, sums, products of numbers, rotation, and what moves numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ....kernels.layout import LANES
from ....loader import Tensor
from ....operations import (
    Activate,
    Add,
    Concat,
    Embed,
    Gate,
    Input,
    Mul,
    Norm,
    Op,
    Repeat,
    Rope,
    Scale,
    ScaleByPosition,
    SelectRows,
    Slice,
    Value,
    View,
)
from ...errors import PlanError
from ..forms import GATES
from ..writer import CpuWriter, unknown
from .products import check_format, row_bytes

_ACTIVATIONS = {
    "silu", "gelu", "relu", "squared_relu", "sigmoid", "softplus", "tanh", "exp", "softcap", "clamp", "xielu",
    "reciprocal", "signed_sqrt",
}  # fmt: skip


def _embed(w: CpuWriter, op: Embed) -> None:
    check_format(op.table)
    out, n_rows = w.plan.buffer(op.out), op.table.shape[0]
    numbers = {"token": w.inputs.ids, "position": w.inputs.positions}.get(op.by, w.inputs.cycles.get(n_rows))
    w.step(
        f"rows.embed:{op.table.type}", op.out, [], [out], weights=op.table.data, row_bytes=row_bytes(op.table),
        n_columns=op.out.size, ids=numbers, out=out, scratch=w.inputs.scratch, n_tokens=w.count(op.out),
    )  # fmt: skip
    if op.scale != 1:
        over(w, "scale", op.out, op.out, parameters=(op.scale,))


def _select(w: CpuWriter, op: SelectRows) -> None:
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    w.step(
        "rows.gather", op.out, [x], [out],
        x=x, rows=w.inputs.rows, out=out, n_columns=op.out.size, n_tokens=w.count(op.out),
    )  # fmt: skip


def _norm(w: CpuWriter, op: Norm) -> None:
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    vectors = {"weight": op.weight, "bias": op.bias}
    terms = [name for name, tensor in vectors.items() if tensor]
    sizes = {int(np.prod(tensor.shape)) for tensor in vectors.values() if tensor}
    if len(sizes) > 1 or not sizes <= {op.x.width, op.x.size}:
        raise unknown(op, ", with a weight of another size,")
    w.step(
        f"rows.norm:{op.kind}:{'+'.join(terms) or 'bare'}:{w.kind_of_lanes(op.out)}", op.out, [x], [out],
        x=x, out=out, n_columns=op.out.width, n_heads=op.out.heads,
        own_weights=int(op.out.heads > 1 and sizes == {op.x.size}), eps=op.eps,
        scratch=w.inputs.scratch, n_tokens=w.count(op.out),
        **{name: w.plan.floats(tensor) if tensor else 0 for name, tensor in vectors.items()},
    )  # fmt: skip


def _gate(w: CpuWriter, op: Gate) -> None:
    a, b, out = w.plan.buffer(op.gate), w.plan.buffer(op.up), w.plan.buffer(op.out)
    if op.kind == "clamped_silu":
        over(w, "gate_clamped_silu", op.out, op.gate, second=op.up, parameters=(op.limit,))
        return
    if op.kind not in GATES:
        raise unknown(op)
    w.step(
        f"rows.gate:{op.kind}:{w.kind(op.out)}", op.out, [a, b], [out],
        a=a, b=b, out=out, n_columns=op.out.size, n_tokens=w.count(op.out),
    )  # fmt: skip


def _activate(w: CpuWriter, op: Activate) -> None:
    if op.kind in ("softmax", "sparse", "sinkhorn"):
        _row_function(w, op)
        return
    if op.kind not in _ACTIVATIONS:
        raise unknown(op)
    over(w, op.kind, op.out, op.x, parameters=op.parameters)


def _row_function(w: CpuWriter, op: Activate) -> None:
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    sizes: dict[str, Any] = {"n_heads": op.out.heads, "n_columns": op.out.width}
    if op.kind == "sparse":
        sizes["deviations"] = float(op.parameters[0])
    if op.kind == "sinkhorn":
        if op.out.heads != op.out.width or op.out.width > LANES:
            raise unknown(op, f" of {op.out.heads} × {op.out.width} numbers")
        sizes = {"n": op.out.width, "iterations": int(op.parameters[0]), "eps": float(op.parameters[1])}
    w.step(f"row_functions.{op.kind}", op.out, [x], [out], x=x, out=out, n_tokens=w.count(op.out), **sizes)


def _add(w: CpuWriter, op: Add) -> None:
    if op.scale != 1 or op.a.size != op.b.size:
        over(w, "add", op.out, op.a, second=op.b, parameters=(op.scale,))
        return
    a, b, out = w.plan.buffer(op.a), w.plan.buffer(op.b), w.plan.buffer(op.out)
    w.step("rows.add", op.out, [a, b], [out], a=a, b=b, out=out, n_columns=op.out.size, n_tokens=w.count(op.out))


def _mul(w: CpuWriter, op: Mul) -> None:
    a, b = (op.a, op.b) if op.a.width == op.out.width else (op.b, op.a)
    over(w, "mul", op.out, a, second=b)


def _scale(w: CpuWriter, op: Scale) -> None:
    x = op.x
    for function, tensor, parameters in _terms(op):
        over(w, function, op.out, x, second=tensor, parameters=parameters)
        x = op.out


def _terms(op: Scale) -> Iterator[tuple[str, Tensor | None, tuple[float, ...]]]:
    """Functions one after another: x·factor, ·weight, + bias."""
    if op.factor != 1 or not (op.weight or op.bias):
        yield "scale", None, (op.factor,)
    if op.weight:
        yield "mul", op.weight, ()
    if op.bias:
        yield "add", op.bias, (1.0,)


def _scale_by_position(w: CpuWriter, op: ScaleByPosition) -> None:
    over(w, "mul", op.out, op.x, second=w.inputs.position_scales[op.rate, op.length, op.offset])


def _slice(w: CpuWriter, op: Slice) -> None:
    over(w, "copy", op.out, op.x, column=op.start)


def _concat(w: CpuWriter, op: Concat) -> None:
    over(w, "copy", op.out, op.a, n_columns=op.a.width)
    over(w, "copy", op.out, op.b, n_columns=op.b.width, to_column=op.a.width)


def copy(w: CpuWriter, out: Value, x: Value) -> None:
    """A step that copies a value."""
    over(w, "copy", out, x)


def _repeat(w: CpuWriter, op: Repeat) -> None:
    over(w, "copy", op.out, op.x, each=1 if op.tiled else op.times)


def over(
    w: CpuWriter, function: str, out: Value, a: Value, *, second: Value | Tensor | np.ndarray | None = None,
    parameters: tuple[float, ...] = (), n_columns: int = 0, column: int = 0, to_column: int = 0, each: int = 1,
) -> None:  # fmt: skip
    """A step of elementwise.over: out = function(a, second), number by number.

    second: a value; a vector of weights, for the columns of a head or of all, or one number; or a number for each
    token. column, to_column: where in a head of a, and of out, to begin. each: heads of out that share one of a.
    """
    x, to = w.plan.buffer(a), w.plan.buffer(out)
    n_columns = n_columns or out.width
    b, b_token, b_heads, b_width = _second(w, second, out)
    how = "none" if second is None else "one" if b_width == 1 and n_columns > 1 else "row"
    p, q, r, s = (*map(float, parameters), 0.0, 0.0, 0.0, 0.0)[:4]
    w.step(
        f"elementwise.over:{function}:{how}", out, [x, b], [to],
        a=_from(x, column), a_token=a.size, a_head=a.width, a_heads=a.heads, a_each=each,
        b=b, b_token=b_token, b_head=b_width, b_heads=b_heads,
        out=_from(to, to_column), out_token=out.size, out_head=out.width, n_heads=out.heads, n_columns=n_columns,
        p=p, q=q, r=r, s=s, n_tokens=w.count(out),
    )  # fmt: skip


def _second(w: CpuWriter, second: Value | Tensor | np.ndarray | None, out: Value) -> tuple[Any, int, int, int]:
    """What `second` is for the kernel: memory, numbers of a token (0: the same for all), heads, numbers of a head."""
    if second is None:
        return 0, 0, 1, 0
    if isinstance(second, np.ndarray):
        return second, 1, 1, 1
    if isinstance(second, Value):
        return w.plan.buffer(second), second.size, second.heads, second.width
    vector = w.plan.floats(second)
    of_heads = second.shape == (out.heads, 1)  # one number for each
    if vector.size not in (1, out.width, out.size) and not of_heads:
        raise PlanError(f"tensor {second.name} has {vector.size} numbers: not 1, {out.width} or {out.size}")
    heads = out.heads if of_heads or vector.size == out.size else 1
    return vector, 0, heads, vector.size // heads


def _from(memory: np.ndarray, column: int) -> np.ndarray:
    return memory.reshape(-1)[column:] if column else memory


def _rope(w: CpuWriter, op: Rope) -> None:
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    if x is not out:  # somebody needs it as it was
        over(w, "copy", op.out, op.x)
    cos, sin = w.inputs.angles[id(op.frequencies), op.delay]
    w.step(
        f"rope.rope:{op.frequencies.layout}", op.out, [out], [out], x=_from(out, op.offset), cos=cos, sin=sin,
        n_heads=op.out.heads, head_dim=op.out.width, n_rot=2 * len(op.frequencies.frequencies),
        n_tokens=w.count(op.out),
    )  # fmt: skip


def _nothing(w: CpuWriter, op: Op) -> None:
    """The value is there: it came from the stage before, or is the same memory as another."""


STEPS: dict[type[Any], Callable[[CpuWriter, Any], None]] = {
    Input: _nothing,
    View: _nothing,
    Embed: _embed,
    SelectRows: _select,
    Norm: _norm,
    Gate: _gate,
    Activate: _activate,
    Add: _add,
    Mul: _mul,
    Scale: _scale,
    ScaleByPosition: _scale_by_position,
    Slice: _slice,
    Concat: _concat,
    Repeat: _repeat,
    Rope: _rope,
}

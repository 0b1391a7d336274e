"""Operations on rows: embedding, norms, activations, sums, products of numbers, and what moves numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...kernels.cuda.formats import FORMATS, TILE_ROWS
from ...loader import Tensor
from ...operations import (
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
    Scale,
    ScaleByPosition,
    SelectRows,
    Slice,
    Value,
    View,
)
from .places import GATES, has_one_weight
from .sizes import tiles_of
from .weights import matrix_type, n_columns
from .writer import CudaWriter, unknown

#: Functions of elementwise.cuh, by the kinds of Activate and Gate, and how many parameters they take.
_ACTIVATIONS = {
    "silu": 0, "gelu": 0, "relu": 0, "squared_relu": 0, "sigmoid": 0, "softplus": 0, "tanh": 0, "exp": 0,
    "reciprocal": 0, "softcap": 1, "signed_sqrt": 1, "clamp": 2, "xielu": 4,
}  # fmt: skip


class _Operand(NamedTuple):
    """Numbers of elementwise.over: an address, and how many numbers on the next token, head and column begin."""

    at: int
    token: int = 0
    head: int = 0
    column: int = 0

    @staticmethod
    def of(w: CudaWriter, value: Value, out: Value) -> _Operand:
        """A value, of which one head, or one column, serves all of `out`."""
        rows = w.floats(value)
        head = value.width if value.heads > 1 or out.heads == 1 else 0
        return _Operand(rows.at, rows.stride, head, int(value.width > 1 or out.width == 1))

    @staticmethod
    def of_weights(w: CudaWriter, tensor: Tensor, out: Value) -> _Operand:
        """Weights for the columns of a head, of all heads, one for each head, or one for all."""
        at, size = w.plan.floats(tensor), math.prod(tensor.shape)
        if tensor.shape == (out.heads, 1):
            return _Operand(at, 0, 1, 0)
        if size == out.size:
            return _Operand(at, 0, out.width, 1)
        return _Operand(at, 0, 0, int(size > 1))


def _over(
    w: CudaWriter, function: str, out: Value, a: _Operand, b: _Operand | None = None,
    parameters: tuple[float, ...] = (), *,
    n_columns: int = 0, to_column: int = 0, heads: int = 0, each: int = 1,
) -> None:  # fmt: skip
    """out = function(a, b), number by number.

    n_columns, to_column: how many of a head of out, and the first. heads: of a, where they serve several of out, again
    and again or `each` so many in a row.
    """
    to, n_columns = w.rows(out), n_columns or out.width
    b = b or _Operand(0)
    p, q, r, s = map(np.float32, (*parameters, 0.0, 0.0, 0.0, 0.0)[:4])
    kind, size = ("half_t", 2) if to.halves else ("float", 4)
    w.launch(
        f"over<{function}, {kind}>", (tiles_of(out.heads * n_columns, 256), w.n(out)), 256, *a,
        heads or out.heads, each, *b, to.at + size * to_column, to.stride, out.width, out.heads, n_columns, p, q, r, s,
        w.count(out),
    )  # fmt: skip


def _embed(w: CudaWriter, op: Embed) -> None:
    kind, width, out, n = matrix_type(op.table), op.out.size, w.rows(op.out), w.sizes.n_tokens
    n_steps = n_columns(op.table) // FORMATS[kind].step
    n_tiles = tiles_of(n, TILE_ROWS) * n_steps
    w.launch(
        f"embed<{kind}>", (tiles_of(n_tiles, 4),), 128, w.inputs.embeddings[op.out.number].address, n_tiles, 0, n_steps,
        n, out.at, width, out.stride,
    )  # fmt: skip
    if op.scale != 1:
        _over(w, "functions::scale", op.out, _Operand.of(w, op.out, op.out), None, (op.scale,))


def _norm(w: CudaWriter, op: Norm) -> None:
    if w.one and op.out.number in w.plan.norms:
        return  # its readers make it
    x, out, heads, width, n, count = w.floats(op.x), w.rows(op.out), op.x.heads, op.x.width, w.n(op.x), w.count(op.x)
    weight, bias = (w.plan.floats(tensor) if tensor else 0 for tensor in (op.weight, op.bias))
    aligned = width % 4 == x.stride % 4 == out.stride % 4 == x.at % 16 == 0 and has_one_weight(op)
    if aligned and heads == 1 and out.halves:
        w.launch("rms_norm", (n,), 512, x.at, x.stride, weight, out.at, width, out.stride, np.float32(op.eps), count)
        return
    if aligned and heads > 1:
        w.launch(
            "head_norm", (tiles_of(heads, 4), n), 128, x.at, x.stride, weight, out.at, out.stride, heads, width,
            np.float32(op.eps), count,
        )  # fmt: skip
        return
    sizes = {math.prod(tensor.shape) for tensor in (op.weight, op.bias) if tensor}
    if len(sizes) > 1 or not sizes <= {width, op.x.size}:
        raise unknown(op, ", with a weight of another size,")
    w.launch(
        f"norm<{op.kind}, {'half_t' if out.halves else 'float'}>", (heads, n), 512 if width > 1024 else 128, x.at,
        x.stride, weight, bias, int(heads > 1 and sizes == {op.x.size}), out.at, out.stride, width,
        np.float32(op.eps), count,
    )  # fmt: skip


def _activate(w: CudaWriter, op: Activate) -> None:
    if op.kind in ("softmax", "sparse", "sinkhorn"):
        _of_heads(w, op)
        return
    if _ACTIVATIONS.get(op.kind) != len(op.parameters):
        raise unknown(op)
    _over(w, f"functions::{op.kind}", op.out, _Operand.of(w, op.x, op.out), None, op.parameters)


def _of_heads(w: CudaWriter, op: Activate) -> None:
    """Functions of all numbers of a head."""
    x, out, (heads, width), n, count = w.floats(op.x), w.floats(op.out), op.shape, w.n(op.x), w.count(op.x)
    if op.kind == "sinkhorn":
        if heads != width or width > 32:
            raise unknown(op, f" of {heads} × {width} numbers")
        iterations, eps = op.parameters
        w.launch(
            "sinkhorn", (n,), 32, x.at, x.stride, out.at, out.stride, width, int(iterations), np.float32(eps), count
        )
        return
    parameters = map(np.float32, op.parameters)
    w.launch(op.kind, (heads, n), 128, x.at, x.stride, out.at, out.stride, width, *parameters, count)


def _gate(w: CudaWriter, op: Gate) -> None:
    a, b = _Operand.of(w, op.gate, op.out), _Operand.of(w, op.up, op.out)
    if op.kind not in GATES or (op.limit and op.kind != "clamped_silu"):
        raise unknown(op)
    _over(w, GATES[op.kind], op.out, a, b, (op.limit,))


def _add(w: CudaWriter, op: Add) -> None:
    _over(w, "functions::add_scaled", op.out, _Operand.of(w, op.a, op.out), _Operand.of(w, op.b, op.out), (op.scale,))


def _mul(w: CudaWriter, op: Mul) -> None:
    _over(w, "functions::mul", op.out, _Operand.of(w, op.a, op.out), _Operand.of(w, op.b, op.out))


def _scale(w: CudaWriter, op: Scale) -> None:
    """x·factor, ·weight, + bias, one after another."""
    x = _Operand.of(w, op.x, op.out)
    if op.factor != 1 or not (op.weight or op.bias):
        _over(w, "functions::scale", op.out, x, None, (op.factor,))
        x = _Operand.of(w, op.out, op.out)
    if op.weight:
        _over(w, "functions::mul", op.out, x, _Operand.of_weights(w, op.weight, op.out))
        x = _Operand.of(w, op.out, op.out)
    if op.bias:
        _over(w, "functions::add_scaled", op.out, x, _Operand.of_weights(w, op.bias, op.out), (1.0,))


def _scale_by_position(w: CudaWriter, op: ScaleByPosition) -> None:
    x, out = w.floats(op.x), w.floats(op.out)
    w.launch(
        "scale_by_position", (tiles_of(op.x.size, 256), w.n(op.x)), 256, x.at, x.stride, out.at, out.stride, op.x.size,
        np.float32(op.rate), op.length, op.offset, w.inputs.n_tokens, w.inputs.tokens,
    )  # fmt: skip


def _slice(w: CudaWriter, op: Slice) -> None:
    x = w.floats(op.x)
    _over(w, "functions::copy", op.out, _Operand(x.at + 4 * op.start, x.stride, op.x.width, 1))


def _concat(w: CudaWriter, op: Concat) -> None:
    for part, column in (op.a, 0), (op.b, op.a.width):
        rows = w.floats(part)
        x = _Operand(rows.at, rows.stride, part.width if part.heads > 1 else 0, 1)
        _over(w, "functions::copy", op.out, x, n_columns=part.width, to_column=column)


def _repeat(w: CudaWriter, op: Repeat) -> None:
    rows = w.floats(op.x)
    x, each = _Operand(rows.at, rows.stride, op.x.width, 1), 1 if op.tiled else op.times
    _over(w, "functions::copy", op.out, x, heads=op.x.heads, each=each)


def _select(w: CudaWriter, op: SelectRows) -> None:
    x, out = w.floats(op.x), w.floats(op.out)
    w.launch(
        "gather", (w.n(op.out),), 1024, x.at, x.stride, w.inputs.rows, out.at, out.stride, op.out.size,
        w.inputs.n_logits,
    )  # fmt: skip


def _nothing(w: CudaWriter, op: Op) -> None:
    """The value is there: it came from the stage before, or is the same memory as another."""


LAUNCHES: dict[type[Any], Callable[[CudaWriter, Any], None]] = {
    Input: _nothing,
    View: _nothing,
    Embed: _embed,
    SelectRows: _select,
    Norm: _norm,
    Activate: _activate,
    Gate: _gate,
    Add: _add,
    Mul: _mul,
    Scale: _scale,
    ScaleByPosition: _scale_by_position,
    Slice: _slice,
    Concat: _concat,
    Repeat: _repeat,
}

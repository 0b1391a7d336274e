"""Products of weights: for one token and for few straight from quantised weights, for many through halves as a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from ...fusion import AddedProduct, GatedProduct, Products
from ...kernels.cuda.formats import FORMATS, TILE_ROWS
from ...operations import Linear
from ..errors import PlanError
from ..floats import floats
from . import prefill
from .launches import FEW, Argument, Multiply
from .places import Rows
from .sizes import tiles_of, up
from .weights import Matrix, in_pairs, matrix_type
from .workspace import by_type
from .writer import CudaWriter

_MATVEC_WARPS, _MATVEC_THREADS, _CHUNK, _MATMUL_ROWS = 8, 288, 256, 64  # as in matvec.cu and matmul.cu
_MATVEC_BLOCKS = 2  # on a processor at a time
_MATVEC_OWN, _RING_OWN = 3 << 10, 128  # bytes of shared memory of a block beside all this, and of a ring's barriers
_MOST_STAGES, _FEWER_STAGES = 8, 3  # as in ring.cuh: of a ring that a supplier fills, and of others


def _products(w: CudaWriter, item: Products) -> None:
    for exact, linears in groupby(item.linears, lambda op: op.out.number in w.plan.exact):
        if exact:
            for op in linears:
                _exact(w, op)
        else:
            same = list(linears)
            _write(w, same, w.rows(same[0].out), add=False)


def _added(w: CudaWriter, item: AddedProduct) -> None:
    _write(w, (item.linear,), w.rows(item.out), add=True)


def _exact(w: CudaWriter, op: Linear) -> None:
    """A product of f32 that is not rounded on the way."""
    x, out, n_rows, n = w.floats(op.x), w.rows(op.out), op.weight.shape[0], w.n(op.x)
    together = 1 if n == 1 else 8  # tokens
    w.launch(
        f"linear_floats<{together}>", (tiles_of(n_rows, 8), tiles_of(n, together)), 256, w.plan.floats(op.weight),
        n_rows, op.x.size, x.at, x.stride, w.plan.floats(op.bias) if op.bias else 0, out.at, out.stride, w.count(op.x),
    )  # fmt: skip


def _write(w: CudaWriter, linears: Sequence[Linear], out: Rows, *, add: bool) -> None:
    matrices = [w.plan.matrix([op.weight for op in group]) for group in by_type(linears)]
    bias, n = _bias(w, linears), w.n(linears[0].x)
    if w.one:
        token = _token(w, linears[0])
        for a, b, column in in_pairs(matrices):
            _one(w, a, b, token, out.at + 4 * column, bias and bias + 4 * column, add)
    elif 0 < n <= FEW:  # of a batch of many tokens, the logits of few are wanted as a rule, or none
        x = _input(w, linears[0])
        for a, b, column in in_pairs(matrices):
            _few(w, a, b, x, w.count(linears[0].x), out._replace(at=out.at + 4 * column),
                 bias and bias + 4 * column, add, n)  # fmt: skip
    elif n:
        _many(w, matrices, _input(w, linears[0]), out, n, add=add)
        if bias:
            width = sum(matrix.n_rows for matrix in matrices)
            w.launch("add_bias", (tiles_of(width, 256), n), 256, out.at, out.stride, bias, width)


def _gate(w: CudaWriter, item: GatedProduct) -> None:
    out, width = w.rows(item.op.out), item.op.out.size
    gate, up_ = (w.plan.matrix([op.weight]) for op in (item.gate, item.up))
    if w.one:
        _one_gate(w, gate, up_, _token(w, item.gate), out.at)
        return
    x, n, count = _input(w, item.gate), w.n(item.gate.x), w.count(item.gate.x)
    if w.sizes.few:
        arguments = (
            gate.memory.address, up_.memory.address, gate.n_rows, gate.n_columns, x.at, x.stride, count, out.at,
            out.stride,
        )  # fmt: skip
        tiles = tiles_of(gate.n_rows, _MATMUL_ROWS)
        _matmul(w, f"matmul_gate<{gate.type}, {up_.type}, {{}}>", tiles, 2, arguments, n)
    elif prefill.takes(w, [gate, up_]) and gate.format.order == up_.format.order:
        prefill.gate(w, gate, up_, x, out, n)
    else:
        both = Rows(w.scratch("gate"), 2 * width, False)
        _many(w, [gate, up_], x, both, n, add=False)
        grid = tiles_of(width, 1024), n
        w.launch("activate", grid, 256, both.at, both.at + 4 * width, both.stride, out.at, width, out.stride)


class _Token(NamedTuple):
    """What a product of one token reads: halves, or f32 of which it makes the norm itself."""

    x: int
    weight: int = 0  # of the norm
    eps: float = 0.0


def _token(w: CudaWriter, op: Linear) -> _Token:
    if (norm := w.plan.norms.get(op.x.number)) and norm.weight:
        return _Token(w.floats(norm.x).at, w.plan.floats(norm.weight), norm.eps)
    return _Token(_input(w, op).at)


def _input(w: CudaWriter, op: Linear) -> Rows:
    return w.halves(op.x, FORMATS[matrix_type(op.weight)].step)


def _one(w: CudaWriter, a: Matrix, b: Matrix | None, token: _Token, out: int, bias: int, add: bool) -> None:
    """One token: a kernel for the rows of a and of b, that makes the norm before, and adds to what is there."""
    n_bytes = _MATVEC_WARPS * max(matrix.format.tile_bytes * _CHUNK // matrix.format.step for matrix in (a, b or a))
    n_stages, shared = _ring(w, a, b or a, n_bytes)
    n_tiles = tiles_of(a.n_rows, TILE_ROWS) + (tiles_of(b.n_rows, TILE_ROWS) if b else 0)
    w.launch(
        f"matvec<{a.type}, {(b or a).type}>", (min(n_tiles, _MATVEC_BLOCKS * w.device.n_processors),), _MATVEC_THREADS,
        a.memory.address, a.n_rows, (b or a).memory.address, b.n_rows if b else 0, a.n_columns, n_stages, token.x,
        token.weight, np.float32(token.eps), out, bias, int(add), shared=shared, overlaps=True,
    )  # fmt: skip


def _one_gate(w: CudaWriter, gate: Matrix, up: Matrix, token: _Token, out: int) -> None:
    sizes = [matrix.format.tile_bytes * _CHUNK // matrix.format.step for matrix in (gate, up)]
    n_stages, shared = _ring(w, gate, up, _MATVEC_WARPS // 2 * sum(sizes))
    grid = (min(tiles_of(gate.n_rows, TILE_ROWS), _MATVEC_BLOCKS * w.device.n_processors),)
    w.launch(
        f"matvec_gate<{gate.type}, {up.type}>", grid, _MATVEC_THREADS,
        gate.memory.address, up.memory.address, gate.n_rows, gate.n_columns, n_stages, token.x, token.weight,
        np.float32(token.eps), out, shared=shared, overlaps=True,
    )  # fmt: skip


def _ring(w: CudaWriter, a: Matrix, b: Matrix, stage: int) -> tuple[int, int]:
    """Places of the ring of a kernel of matvec.cu for two matrices, and its shared memory; stage: bytes of a place.

    Raises PlanError where not even one fits.
    """
    device, fixed = w.device, _MATVEC_OWN + _token_bytes(a, b)
    # a block's part of a processor's memory; at least two places, if they fit at all
    room = min(max(device.shared_of_processor // _MATVEC_BLOCKS, fixed + 2 * stage), device.max_shared)
    n_stages = min(max((room - fixed) // stage, 1), _MOST_STAGES if device.overlaps else _FEWER_STAGES)
    if fixed + n_stages * stage > device.max_shared:
        raise PlanError(f"{a.type} weights of {a.n_columns} columns: too large for this GPU's shared memory")
    return n_stages, _RING_OWN + n_stages * stage + _token_bytes(a, b)


def _few(
    w: CudaWriter, a: Matrix, b: Matrix | None, x: Rows, count: int, out: Rows, bias: int, add: bool, n: int
) -> None:
    b_rows = b.n_rows if b else 0
    tiles = tiles_of(a.n_rows, _MATMUL_ROWS) + tiles_of(b_rows, _MATMUL_ROWS)
    arguments = (
        a.memory.address, a.n_rows, (b or a).memory.address, b_rows, a.n_columns, x.at, x.stride, count, out.at,
        out.stride, bias, int(add),
    )  # fmt: skip
    # few tiles: more threads to each, where there is shared memory for them
    splits = 4 if tiles <= w.device.n_processors and w.device.max_shared >= 128 << 10 else 2
    _matmul(w, f"matmul<{a.type}, {(b or a).type}, {{}}, {splits}>", tiles, splits, arguments, n)


def _matmul(w: CudaWriter, name: str, tiles: int, splits: int, arguments: tuple[Argument, ...], n: int) -> None:
    """Launch a kernel of matmul.cu. Tokens are taken eight at a time, up to four times: {} in its name."""
    times = 1 if n <= 8 else 2 if n <= 16 else 4
    chunks = splits * 2 * 8 * times * 2 * 256  # two for each split, of halves
    sums = splits * 8 * times * (_MATMUL_ROWS + 1) * 4
    w.launch(name.format(times), (tiles,), 128 * splits, *arguments, shared=max(chunks, sums))


def _many(w: CudaWriter, matrices: Sequence[Matrix], x: Rows, out: Rows, n: int, *, add: bool) -> None:
    """Multiply with quantised weights; or unpack as many rows as there is room for, multiply, and so on."""
    if prefill.takes(w, matrices):
        prefill.products(w, matrices, x, out, n, add)
        return
    columns, scratch = matrices[0].n_columns, w.plan.space.scratch["halves"]
    room = up(scratch.n_bytes // (2 * columns) - TILE_ROWS + 1, TILE_ROWS)
    first = filled = 0

    def multiply() -> None:
        nonlocal first, filled
        if filled:
            at = out.at + 4 * first
            w.multiply(Multiply(scratch.address, filled, x.at, columns, n, at, out.stride, add))
        first, filled = first + filled, 0

    for matrix in matrices:
        start = 0
        while start < matrix.n_rows:
            n_rows = min(matrix.n_rows - start, (room - filled) // TILE_ROWS * TILE_ROWS)
            if not n_rows:
                multiply()
                continue
            w.launch(
                f"dequantise<{matrix.type}>", (tiles_of(tiles_of(n_rows, TILE_ROWS) * matrix.n_steps, 4),), 128,
                matrix.memory.address, matrix.n_tiles, start // TILE_ROWS * matrix.n_steps, matrix.n_steps, n_rows,
                scratch.address + 2 * columns * filled, columns, columns,
            )  # fmt: skip
            start, filled = start + n_rows, filled + n_rows
    multiply()


def _bias(w: CudaWriter, linears: Sequence[Linear]) -> int:
    if not any(op.bias for op in linears):
        return 0

    def make() -> np.ndarray:
        return np.concatenate([floats(op.bias) if op.bias else np.zeros(op.out.size, np.float32) for op in linears])

    return w.plan.vector(linears[0].weight.name + ".bias", make)


def _token_bytes(a: Matrix, b: Matrix) -> int:
    """Bytes of shared memory for the numbers of a token (matvec.cu, Numbers): zeros, bytes, halves, scales and sums."""
    halves = [matrix.type == "F16" for matrix in (a, b)]
    return 256 + a.n_columns * 2 * (any(halves) + (not all(halves))) + a.n_columns // 32 + a.n_columns // 4


LAUNCHES: dict[type[Any], Callable[[CudaWriter, Any], None]] = {
    Products: _products,
    AddedProduct: _added,
    GatedProduct: _gate,
}

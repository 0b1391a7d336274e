"""Matrix times vector: out[row] = Σ weights[row][column]·x[column], for weights in any format and one token.

Reads the mapped file once, at the speed of memory. Threads take chunks of rows off shared counters.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .. import formats
from ..layout import COLUMNS, RECORD_BYTES, SCRATCH
from ..simd import fma, get_f32, inline, load_f32, prefetch, put_f32, reduce_add, splat_f32
from .activations import silu
from .inner import dot_piece, dot_record
from .records import writer
from .share import claim
from .units import least, unit_at

_LEAST_ROWS, _MOST_ROWS = 16, 64  # that a thread takes at a time
_GATED_ROWS = 32  # the same, of both matrices: a group of the records that come out
_AHEAD = 8192  # bytes to ask for in advance: a page, as the CPU's own prefetching ends with each


@cache
def _row_dot(name: str) -> Any:
    """dot(row, x, n_columns, spare) → the product of the row of weights at an address with the token's records."""
    fmt = formats.get(name)
    return _float_dot(fmt) if fmt.is_float else _byte_dot(fmt)


def _float_dot(fmt: formats.Format) -> Any:
    unpack, unit, n_bytes, address_of = fmt.unpack, fmt.columns, fmt.n_bytes, unit_at(fmt, fmt.columns)

    @inline
    def row_dot(row, x, n_columns, spare):
        acc, other = splat_f32(0.0), splat_f32(0.0)
        whole = n_columns // 64 * 64
        for column in range(0, whole, 64):  # records of floats lie side by side
            at, value = row + column // unit * n_bytes, x + 4 * column
            for line in range(0, 4 * n_bytes, 64):
                prefetch(at + line + _AHEAD)
            acc, other = fma(unpack(at), load_f32(value), acc), fma(unpack(at + n_bytes), load_f32(value + 64), other)
            acc = fma(unpack(at + 2 * n_bytes), load_f32(value + 128), acc)
            other = fma(unpack(at + 3 * n_bytes), load_f32(value + 192), other)
        for column in range(whole, n_columns, unit):
            acc = fma(unpack(address_of(spare, row, column, n_columns)), load_f32(x + 4 * column), acc)
        return reduce_add(acc + other)

    return row_dot


def _byte_dot(fmt: formats.Format) -> Any:
    unpack, n_bytes, x_bytes = fmt.unpack, fmt.n_bytes, RECORD_BYTES["bytes"]
    dot, least_of, tail = dot_record(fmt.bits), least(fmt), _tail_dot(fmt)

    @inline
    def row_dot(row, x, n_columns, spare):
        address, record, acc = row, x, splat_f32(0.0)
        for _ in range(n_columns // COLUMNS):
            for line in range(0, n_bytes, 64):
                prefetch(address + line + _AHEAD)
            q, scales, mins = unpack(address)
            acc = dot(acc, q, scales, least_of(scales, mins), record)
            address, record = address + n_bytes, record + x_bytes
        return reduce_add(tail(acc, row, record, n_columns, spare))

    return row_dot


def _tail_dot(fmt: formats.Format) -> Any:
    """tail(acc, row, record, n_columns, spare) → acc with the columns after the last whole unit, in pieces of 64."""
    if fmt.piece is None:
        return inline(lambda acc, row, record, n_columns, spare: acc)
    piece, least_of, address_of = fmt.piece, least(fmt), unit_at(fmt, 64)
    dots = [dot_piece(fmt.bits, place) for place in range(4)]
    first_dot, second_dot, third_dot, fourth_dot = dots

    @inline
    def tail(acc, row, record, n_columns, spare):
        column = n_columns // COLUMNS * COLUMNS
        if column < n_columns:
            q, scales, mins = piece(address_of(spare, row, column, n_columns))
            acc = first_dot(acc, q, scales, least_of(scales, mins), record)
        if column + 64 < n_columns:
            q, scales, mins = piece(address_of(spare, row, column + 64, n_columns))
            acc = second_dot(acc, q, scales, least_of(scales, mins), record)
        if column + 128 < n_columns:
            q, scales, mins = piece(address_of(spare, row, column + 128, n_columns))
            acc = third_dot(acc, q, scales, least_of(scales, mins), record)
        if column + 192 < n_columns:
            q, scales, mins = piece(address_of(spare, row, column + 192, n_columns))
            acc = fourth_dot(acc, q, scales, least_of(scales, mins), record)
        return acc

    return tail


def linear(name: str) -> Any:
    """x: one token's records; out: f32[n_rows]; bias: f32[n_rows] or 0; add: add to what is in `out`."""
    row_dot = _row_dot(name)

    def body(
        thread: int, n_threads: int, counter: int,
        weights: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, bias: int, add: int, scratch: int,
    ) -> None:  # fmt: skip
        spare = scratch + thread * SCRATCH
        chunk = min(_MOST_ROWS, max(_LEAST_ROWS, n_rows // (8 * n_threads)))
        while True:
            first = claim(counter, thread, n_threads, (n_rows + chunk - 1) // chunk) * chunk
            if first >= n_rows:
                break
            for row in range(first, min(first + chunk, n_rows)):
                value = row_dot(weights + row * row_bytes, x, n_columns, spare)
                if bias:
                    value += get_f32(bias + 4 * row)
                if add:
                    value += get_f32(out + 4 * row)
                put_f32(out + 4 * row, value)

    return body


def swiglu(name: str, kind: str) -> Any:
    """out = silu(gate·x)·(up·x) (Shazeer 2020), as a row of a kind (records.py); gate, up: weights of one shape."""
    row_dot, put = _row_dot(name), writer(kind)

    @inline
    def products(weights, row_bytes, first, n_rows, x, n_columns, sums, spare):
        for i in range(_GATED_ROWS):
            row = min(first + i, n_rows - 1)
            put_f32(sums + 4 * i, row_dot(weights + row * row_bytes, x, n_columns, spare))

    def body(
        thread: int, n_threads: int, counter: int,
        gate: int, up: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, scratch: int,
    ) -> None:  # fmt: skip
        spare = scratch + thread * SCRATCH
        a, b = spare + 1024, spare + 1024 + 4 * _GATED_ROWS
        while True:
            first = claim(counter, thread, n_threads, (n_rows + _GATED_ROWS - 1) // _GATED_ROWS) * _GATED_ROWS
            if first >= n_rows:
                break
            products(gate, row_bytes, first, n_rows, x, n_columns, a, spare)
            products(up, row_bytes, first, n_rows, x, n_columns, b, spare)
            low, high = silu(load_f32(a)) * load_f32(b), silu(load_f32(a + 64)) * load_f32(b + 64)
            put(out, 0, first, low, high, n_rows, 1)

    return body

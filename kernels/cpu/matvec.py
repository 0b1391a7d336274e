"""Matrix times vector: out[row] = Σ weights[row][column]·x[column], for weights in any format and one token.

Reads the mapped file once, at the speed of memory. Threads take chunks of rows off shared counters.
"""

from __future__ import annotations

from typing import Any

from .. import formats
from ..layout import COLUMNS, Q8_D, SCRATCH, record_bytes
from ..simd import get_f32, inline, load_f32, prefetch, put_f32, reduce_add, splat_f32
from .activations import silu
from .inner import dot_unit
from .records import writer
from .share import claim
from .units import least, unit_at

_LEAST_ROWS, _MOST_ROWS = 16, 64  # that a thread takes at a time
_GATED_ROWS = 32  # the same, of both matrices: a group of the records that come out
_AHEAD = 4096  # bytes to ask for in advance: a page, as the CPU's own prefetching ends with each


def _unit_dot(fmt: formats.Format) -> Any:
    """dot(weights, record, column) → f32x16 whose lanes sum to the product of the unit at `column` of a record."""
    unpack = fmt.unpack
    if fmt.is_float:

        @inline
        def dot_floats(address, record, column):
            return unpack(address) * load_f32(record + 4 * column)

        return dot_floats

    dot, least_of = dot_unit(fmt.bits), least(fmt)

    @inline
    def dot_bytes(address, record, column):
        q, scales, mins = unpack(address)
        return dot(q, scales, least_of(scales, mins), record + column, record + Q8_D + column // 4)

    return dot_bytes


def _row_dot(name: str) -> Any:
    """dot(row, x, n_columns, spare) → the product of the row of weights at an address with the token's records."""
    fmt = formats.get(name)
    unit, n_bytes = fmt.columns, fmt.n_bytes
    dot, address_of, x_bytes = _unit_dot(fmt), unit_at(fmt), record_bytes(name)
    units = COLUMNS // unit  # of a record

    @inline
    def row_dot(row, x, n_columns, spare):
        address, record, acc = row, x, splat_f32(0.0)
        whole = n_columns // COLUMNS
        for _ in range(whole):
            for i in range(units):
                for line in range(0, n_bytes, 64):
                    prefetch(address + i * n_bytes + line + _AHEAD)
                acc = acc + dot(address + i * n_bytes, record, i * unit)
            address, record = address + units * n_bytes, record + x_bytes
        for column in range(whole * COLUMNS, n_columns, unit):
            acc = acc + dot(address_of(spare, row, column, n_columns), record, column - whole * COLUMNS)
        return reduce_add(acc)

    return row_dot


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
    """out = silu(gate·x)·(up·x) (Shazeer 2020), as rows of a kind (records.py); gate, up: weights of one shape."""
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

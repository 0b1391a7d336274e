"""Operations on rows of activations: embedding, norms, activation functions, sums, and packing into records.

Rows are f32, of any length. Threads take rows, or blocks of 256 columns of one row, off a shared counter.
"""

from __future__ import annotations

from typing import Any

from .. import formats
from ..code import Ref
from ..layout import COLUMNS, F32_BYTES, Q8_BYTES, Q8_D, Q8_SUM16, Q8_SUM32, SCRATCH
from ..simd import (
    absolute,
    divide,
    exp,
    fma,
    get_i32,
    inline,
    load_first,
    maximum,
    narrow_i8,
    nearest,
    put_f32,
    reduce_add,
    reduce_max,
    splat_f32,
    store,
    store_first,
    to_f32,
    to_i32,
)
from .inner import dequantise
from .share import claim
from .units import unit_at


def embed(name: str) -> Any:
    """out[token] = the row of `weights` that ids[token] names, dequantised. ids: i32, checked by the caller."""
    fmt = formats.get(name)
    unpack, unit = fmt.unpack, fmt.columns
    if fmt.is_float:

        @inline
        def unpack_to(scratch, address):
            store(scratch, unpack(address))
    else:
        put = dequantise(fmt.offset)

        @inline
        def unpack_to(scratch, address):
            q, scales, mins = unpack(address)
            put(scratch, q, scales, mins)

    address_of = unit_at(fmt)

    def body(
        thread: int, n_threads: int, counter: int,
        weights: int, row_bytes: int, n_columns: int, ids: int, out: int, scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        while True:
            t = claim(counter, thread, n_threads, n_tokens)
            if t >= n_tokens:
                break
            row, to = weights + get_i32(ids + 4 * t) * row_bytes, out + 4 * t * n_columns
            for column in range(0, n_columns, unit):
                unpack_to(scratch, address_of(scratch + 1024, row, column, n_columns))
                for i in range(column, min(column + unit, n_columns), 16):
                    store_first(to + 4 * i, load_first(scratch + 4 * (i - column), 16), n_columns - i)

    return body


def rms_norm() -> Any:
    """out = x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019), each row for itself."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, weight: int, out: int, n_columns: int, eps: float, n_tokens: Ref,
    ) -> None:  # fmt: skip
        while True:
            t = claim(counter, thread, n_threads, n_tokens)
            if t >= n_tokens:
                break
            row, to = x + 4 * t * n_columns, out + 4 * t * n_columns
            squares = splat_f32(0.0)
            for i in range(0, n_columns, 16):
                v = load_first(row + 4 * i, n_columns - i)
                squares = fma(v, v, squares)
            scale = splat_f32(1.0 / (reduce_add(squares) / n_columns + eps) ** 0.5)
            for i in range(0, n_columns, 16):
                v = load_first(row + 4 * i, n_columns - i) * scale
                store_first(to + 4 * i, v * load_first(weight + 4 * i, n_columns - i), n_columns - i)

    return body


@inline
def _silu(v):
    return divide(v, splat_f32(1.0) + exp(splat_f32(0.0) - v))


def swiglu() -> Any:
    """out = silu(gate)·up (Shazeer 2020), over rows of n_columns."""

    def body(
        thread: int, n_threads: int, counter: int,
        gate: int, up: int, out: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        n = n_tokens * n_columns
        while True:
            first = claim(counter, thread, n_threads, (n + COLUMNS - 1) // COLUMNS) * COLUMNS
            if first >= n:
                break
            for i in range(first, min(first + COLUMNS, n), 16):
                v = _silu(load_first(gate + 4 * i, n - i)) * load_first(up + 4 * i, n - i)
                store_first(out + 4 * i, v, n - i)

    return body


def add() -> Any:
    """out = a + b, over rows of n_columns."""

    def body(
        thread: int, n_threads: int, counter: int,
        a: int, b: int, out: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        n = n_tokens * n_columns
        while True:
            first = claim(counter, thread, n_threads, (n + COLUMNS - 1) // COLUMNS) * COLUMNS
            if first >= n:
                break
            for i in range(first, min(first + COLUMNS, n), 16):
                store_first(out + 4 * i, load_first(a + 4 * i, n - i) + load_first(b + 4 * i, n - i), n - i)

    return body


def gather() -> Any:
    """out[i] = x[rows[i]], rows of n_columns; rows: i32. Picks the tokens whose logits are wanted."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, rows: int, out: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        while True:
            t = claim(counter, thread, n_threads, n_tokens)
            if t >= n_tokens:
                break
            row = x + 4 * get_i32(rows + 4 * t) * n_columns
            for i in range(0, n_columns, 16):
                store_first(out + 4 * (t * n_columns + i), load_first(row + 4 * i, n_columns - i), n_columns - i)

    return body


# --- packing: rows → records, as layout.py draws them -----------------------------------------------


def pack_floats() -> Any:
    """x: f32[token][n_columns] → out: records of 256 f32."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, out: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        n_records = (n_columns + COLUMNS - 1) // COLUMNS * n_tokens
        while True:
            i = claim(counter, thread, n_threads, n_records)
            if i >= n_records:
                break
            column, t = i // n_tokens * COLUMNS, i % n_tokens
            for c in range(column, column + COLUMNS, 16):
                v = load_first(x + 4 * (t * n_columns + c), n_columns - c)
                store(out + i * F32_BYTES + 4 * (c - column), v)

    return body


@inline
def _pack_group(record, g, low, high):
    """Quantise 32 columns, the record's group g."""
    largest = reduce_max(maximum(absolute(low), absolute(high)))
    d = largest / 127.0
    scale = splat_f32(127.0 / largest if largest > 0.0 else 0.0)
    low, high = to_i32(nearest(low * scale)), to_i32(nearest(high * scale))
    store(record + 32 * g, narrow_i8(low))
    store(record + 32 * g + 16, narrow_i8(high))
    sum_low, sum_high = d * reduce_add(to_f32(low)), d * reduce_add(to_f32(high))
    put_f32(record + Q8_D + 8 * g, d)
    put_f32(record + Q8_D + 8 * g + 4, d)
    put_f32(record + Q8_SUM16 + 8 * g, sum_low)
    put_f32(record + Q8_SUM16 + 8 * g + 4, sum_high)
    put_f32(record + Q8_SUM32 + 4 * g, sum_low + sum_high)
    put_f32(record + Q8_SUM32 + 32 + 4 * g, 0.0)


def pack_bytes() -> Any:
    """x: f32[token][n_columns] → out: records of 256 bytes with their scales and sums."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, out: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        n_records = (n_columns + COLUMNS - 1) // COLUMNS * n_tokens
        while True:
            i = claim(counter, thread, n_threads, n_records)
            if i >= n_records:
                break
            column, t = i // n_tokens * COLUMNS, i % n_tokens
            row, record = x + 4 * t * n_columns, out + i * Q8_BYTES
            for g in range(8):
                c = column + 32 * g
                low = load_first(row + 4 * c, n_columns - c)
                high = load_first(row + 4 * c + 64, n_columns - c - 16)
                _pack_group(record, g, low, high)

    return body

"""Rows of activations as an operation hands them on: plain, or packed into records (layout.py).

Whoever makes a row writes it in the form that its reader wants, so that packing is no pass of its own.
"""

from __future__ import annotations

from typing import Any

from ..layout import COLUMNS, F32_BYTES, Q8_BYTES, Q8_D, Q8_SUM16, Q8_SUM32
from ..simd import (
    absolute,
    first_lanes,
    inline,
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


@inline
def _put_row(out, t, column, low, high, n_columns, n_tokens):
    at = out + 4 * (t * n_columns + column)
    store_first(at, low, n_columns - column)
    store_first(at + 64, high, n_columns - column - 16)


@inline
def _put_floats(out, t, column, low, high, n_columns, n_tokens):
    at = out + (column // COLUMNS * n_tokens + t) * F32_BYTES + 4 * (column % COLUMNS)
    store(at, first_lanes(low, n_columns - column, 0.0))
    store(at + 64, first_lanes(high, n_columns - column - 16, 0.0))


@inline
def _put_bytes(out, t, column, low, high, n_columns, n_tokens):
    record, g = out + (column // COLUMNS * n_tokens + t) * Q8_BYTES, column % COLUMNS // 32
    low, high = first_lanes(low, n_columns - column, 0.0), first_lanes(high, n_columns - column - 16, 0.0)
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


def writer(kind: str) -> Any:
    """put(out, t, column, low, high, n_columns, n_tokens): write 32 columns of token t; column: a multiple of 32.

    kind: "plain" for f32[n_tokens][n_columns], "floats" or "bytes" for records. What is beyond n_columns becomes zero
    within the group of 32; a record's groups beyond it must be zero from the start.
    """
    return {"plain": _put_row, "floats": _put_floats, "bytes": _put_bytes}[kind]

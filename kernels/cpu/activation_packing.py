"""Rows of activations as an operation hands them on: plain, or packed into records (layout.py).

Whoever makes a row writes it in the form that its reader wants, so that packing is no pass of its own.
"""

from __future__ import annotations

from typing import Any

from ..layout import COLUMNS, LANES, LANES_APART, LANES_D, LANES_MASKS, LANES_SUMS, RECORD_BYTES, SUMS, D
from ..simd import (
    absolute,
    divide,
    first_lanes,
    fma,
    inline,
    interleave,
    load_f32,
    maximum,
    narrow_i8,
    nearest,
    put_f32,
    put_i32,
    put_sum,
    reduce_add,
    reduce_max,
    scatter,
    splat_f32,
    splat_i32,
    store,
    store_first,
    to_bfloat,
    to_f32,
    to_i32,
    transpose,
)
from .outliers import column_apart

_BYTES, _FLOATS = RECORD_BYTES["bytes"], RECORD_BYTES["floats"]
_BYTE_LANES, _FLOAT_LANES = RECORD_BYTES["byte_lanes"], RECORD_BYTES["float_lanes"]
_BFLOAT_LANES = RECORD_BYTES["bfloat_lanes"]


# --- one token at a time -------------------------------------------------------------------------


@inline
def _put_row(out, t, column, low, high, n_columns, n_tokens):
    at = out + 4 * (t * n_columns + column)
    store_first(at, low, n_columns - column)
    store_first(at + 64, high, n_columns - column - 16)


@inline
def _put_floats(out, t, column, low, high, n_columns, n_tokens):
    at = out + (column // COLUMNS * n_tokens + t) * _FLOATS + 4 * (column % COLUMNS)
    store(at, first_lanes(low, n_columns - column, 0.0))
    store(at + 64, first_lanes(high, n_columns - column - 16, 0.0))


@inline
def _quantise(low, high, rest):
    """32 numbers, zeros beyond the first `rest` → (d, two vectors of q)."""
    low, high = first_lanes(low, rest, 0.0), first_lanes(high, rest - 16, 0.0)
    largest = reduce_max(maximum(absolute(low), absolute(high)))
    scale = splat_f32(127.0 / largest if largest > 0.0 else 0.0)
    return largest / 127.0, to_i32(nearest(low * scale)), to_i32(nearest(high * scale))


@inline
def _put_bytes(out, t, column, low, high, n_columns, n_tokens):
    record, g = out + (column // COLUMNS * n_tokens + t) * _BYTES, column % COLUMNS // 32
    d, low, high = _quantise(low, high, n_columns - column)
    store(record + 32 * g, narrow_i8(low))
    store(record + 32 * g + 16, narrow_i8(high))
    first = record + 4 * (g % 2 * 8 + g // 2)  # in woven order the second group of 16 is four places on
    put_f32(first + D, d)
    put_f32(first + D + 16, d)
    put_f32(first + SUMS, d * reduce_add(to_f32(low)))
    put_f32(first + SUMS + 16, d * reduce_add(to_f32(high)))


@inline
def _lane(out, t, column, n_tokens, record_bytes):
    """Where token t stands in the lines of the record that has this column."""
    vector = column // COLUMNS * ((n_tokens + LANES - 1) // LANES) + t // LANES
    return out + vector * record_bytes + t % LANES * 4


@inline
def _put_float_lane(out, t, column, low, high, n_columns, n_tokens):
    at = _lane(out, t, column, n_tokens, _FLOAT_LANES) + 4 * LANES * (column % COLUMNS)
    scatter(at, first_lanes(low, n_columns - column, 0.0))
    scatter(at + 64 * LANES, first_lanes(high, n_columns - column - 16, 0.0))


@inline
def _put_bfloat_lane(out, t, column, low, high, n_columns, n_tokens):
    at = _lane(out, t, column, n_tokens, _BFLOAT_LANES) + 2 * LANES * (column % COLUMNS)
    scatter(at, to_bfloat(first_lanes(low, n_columns - column, 0.0)))
    scatter(at + 32 * LANES, to_bfloat(first_lanes(high, n_columns - column - 16, 0.0)))


@inline
def _put_mask(record, g, mask):
    put_i32(record + LANES_MASKS + 4 * g, mask)
    put_i32(record + LANES_MASKS + 4 * (g + 8), mask)


@inline
def _put_byte_lane(out, t, column, low, high, n_columns, n_tokens):
    at, g = _lane(out, t, column, n_tokens, _BYTE_LANES), column % COLUMNS // 32
    d, low, high = _quantise(low, high, n_columns - column)
    scatter(at + 32 * LANES * g, narrow_i8(low))
    scatter(at + 32 * LANES * g + 16 * LANES, narrow_i8(high))
    put_f32(at + LANES_D + 4 * LANES * g, d)
    put_sum(at + LANES_SUMS + 8 * LANES * g, low)
    put_sum(at + LANES_SUMS + 8 * LANES * g + 4 * LANES, high)
    _put_mask(at - t % LANES * 4, g, 0)


def writer(kind: str) -> Any:
    """put(out, t, column, low, high, n_columns, n_tokens): write 32 columns of token t; column: a multiple of 32.

    kind: "plain" for f32[n_tokens][n_columns], or the name of a form of records. What is beyond n_columns becomes zero
    within the group of 32; a record's groups beyond it must be zero from the start.
    """
    return {
        "plain": _put_row,
        "bytes": _put_bytes,
        "floats": _put_floats,
        "bfloats": _put_floats,
        "byte_lanes": _put_byte_lane,
        "float_lanes": _put_float_lane,
        "bfloat_lanes": _put_bfloat_lane,
    }[kind]


# --- 16 tokens at a time -------------------------------------------------------------------------


@inline
def _put_rows(out, first, column, values, n_columns, n_tokens):
    for half in range(0, 32, LANES):
        block = values + 4 * LANES * half
        transpose(block, 4 * LANES, block)
        for t in range(min(LANES, n_tokens - first)):
            at = out + 4 * ((first + t) * n_columns + column + half)
            store_first(at, load_f32(block + 4 * LANES * t), n_columns - column - half)


@inline
def _put_all_float_lanes(out, first, column, values, n_columns, n_tokens):
    at = _lane(out, first, column, n_tokens, _FLOAT_LANES) + 4 * LANES * (column % COLUMNS)
    for i in range(32):
        store(at + 4 * LANES * i, load_f32(values + 4 * LANES * i))


@inline
def _put_all_bfloat_lanes(out, first, column, values, n_columns, n_tokens):
    at = _lane(out, first, column, n_tokens, _BFLOAT_LANES) + 2 * LANES * (column % COLUMNS)
    for i in range(0, 32, 2):
        even, odd = to_bfloat(load_f32(values + 4 * LANES * i)), to_bfloat(load_f32(values + 4 * LANES * (i + 1)))
        store(at + 2 * LANES * i, interleave(even, odd))


@inline
def _sizes(values):
    """Of each token: its largest number, by size, and the sum of their squares."""
    least, zero = splat_f32(1e-30), splat_f32(0.0)
    m0, m1, s0, s1 = least, least, zero, zero
    for i in range(0, 32, 2):
        a, b = load_f32(values + 4 * LANES * i), load_f32(values + 4 * LANES * (i + 1))
        m0, m1, s0, s1 = maximum(m0, absolute(a)), maximum(m1, absolute(b)), fma(a, a, s0), fma(b, b, s1)
    return maximum(m0, m1), s0 + s1


@inline
def _put_all_bytes(at, g, values, largest):
    scale, lowest = divide(splat_f32(127.0), largest), splat_i32(255)
    sums = splat_i32(0)
    for i in range(0, 32, 4):
        four = splat_i32(0)
        for j in range(4):
            q = to_i32(nearest(load_f32(values + 4 * LANES * (i + j)) * scale))
            sums = sums + q
            four = four | (q & lowest) << splat_i32(8 * j)
        store(at + 32 * LANES * g + LANES * i, four)
        if i % 16 == 12:
            store(at + LANES_SUMS + 8 * LANES * g + 4 * LANES * (i // 16), sums)
            sums = splat_i32(0)
    store(at + LANES_D + 4 * LANES * g, largest * splat_f32(1.0 / 127.0))


@inline
def _put_all_byte_lanes(out, first, column, values, n_columns, n_tokens):
    at, g = _lane(out, first, column, n_tokens, _BYTE_LANES), column % COLUMNS // 32
    _put_mask(at, g, 0)
    _put_all_bytes(at, g, values, _sizes(values)[0])


@inline
def _put_all_apart_lanes(out, first, column, values, n_columns, n_tokens):
    at, g = _lane(out, first, column, n_tokens, _BYTE_LANES), column % COLUMNS // 32
    largest, squares = _sizes(values)
    apart = column_apart(values, largest, squares, n_tokens - first)
    _put_mask(at, g, 1 << apart if apart >= 0 else 0)
    if apart >= 0:
        store(at + LANES_APART + 4 * LANES * g, load_f32(values + 4 * LANES * apart))
        store(values + 4 * LANES * apart, splat_f32(0.0))
        largest, squares = _sizes(values)
    _put_all_bytes(at, g, values, largest)


def lanes_writer(kind: str) -> Any:
    """put(out, first, column, values, n_columns, n_tokens): the same for 16 tokens; first: a multiple of 16.

    values: f32[32 columns][16 tokens], which may be overwritten; zeros for columns beyond n_columns. kind: "plain", a
    form of lanes, or "apart_lanes" for byte_lanes with large columns kept apart (outliers.py).
    """
    return {
        "plain": _put_rows,
        "byte_lanes": _put_all_byte_lanes,
        "apart_lanes": _put_all_apart_lanes,
        "float_lanes": _put_all_float_lanes,
        "bfloat_lanes": _put_all_bfloat_lanes,
    }[kind]

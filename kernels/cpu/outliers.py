"""Columns of activations that are kept apart from bytes, because they are much larger than those around them.

A few columns of most models' activations are ten to a hundred times as large as others (Dettmers et al. 2022). As bytes
they would leave their neighbours few steps, and what rounding weights (requantise.py) loses would be multiplied by
them: together more than half of all that bytes lose. So of 32 columns, for 16 tokens, the one with more than half of
all energy stays f32 in its record (layout.py), and meets weights as exact as their type has them. All this only where
weights are rounded, in batches of many tokens.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..layout import COLUMNS, LANES, LANES_APART, LANES_MASKS, RECORD_BYTES
from ..simd import (
    ADDRESS,
    F32,
    I1,
    I32,
    I64,
    constant,
    first_lanes,
    fma,
    get_f32,
    get_i64,
    get_u8,
    inline,
    load_f32,
    loaded,
    multiply_add,
    operation,
    put_f32,
    put_i64,
    reduce_add,
    splat,
    splat_f32,
    store,
    weave,
)
from .micro_kernels import ROWS

_MOST = COLUMNS // 32  # groups of a record, each of which has one such column for each 16 tokens
_LINE, _RECORD = 4 * LANES, RECORD_BYTES["byte_lanes"]
_SCALES, _LEAST, _COLUMNS, _PICKED, _WEIGHTS = 64, 128, 192, 192 + 8 * COLUMNS, 192 + 16 * COLUMNS
#: What a thread needs: how many columns are listed, and picked; spare; which; the weights of each, f32[column][row].
APART_BYTES = _WEIGHTS + 4 * ROWS * COLUMNS


@inline
def column_apart(values, largest, squares, n_tokens):
    """Which of 32 columns is to be kept apart, or -1.

    values: f32[32 columns][16 tokens], the first n_tokens of account; largest, squares: each token's largest number by
    size, and the sum of its squares.
    """
    # no column has more than the largest number of each token
    if not reduce_add(first_lanes(fma(largest + largest, largest, splat_f32(0.0) - squares), n_tokens, 0.0)) > 0.0:
        return -1
    half, found = 0.5 * reduce_add(first_lanes(squares, n_tokens, 0.0)), -1
    for i in range(32):
        value = first_lanes(load_f32(values + _LINE * i), n_tokens, 0.0)
        if reduce_add(value * value) > half:
            found = i
    return found


@inline
def list_columns(apart, records, n_vectors):
    """Begin with 256 columns: list those that are apart for any of n_vectors of tokens, whose records these are."""
    n = 0
    for word in range(_MOST // 2):
        masks = 0
        for v in range(n_vectors):
            masks |= get_i64(records + _RECORD * v + LANES_MASKS + 8 * word)
        column = 64 * word
        while masks != 0:
            if masks & 1:
                put_i64(apart + _COLUMNS + 8 * n, column)
                n += 1
            masks = masks >> 1 & 0x7FFFFFFFFFFFFFFF
            column += 1
    put_i64(apart, n)


@inline
def keep_weights(apart, row, q, scales, least):
    """Keep a row's weights of the listed columns. q: address of its bytes; the rest in woven order."""
    n = get_i64(apart)
    if n > 0:
        store(apart + _SCALES, weave(scales))
        store(apart + _LEAST, weave(least))
    for k in range(n):
        column = get_i64(apart + _COLUMNS + 8 * k)
        scale, low = get_f32(apart + _SCALES + column // 16 * 4), get_f32(apart + _LEAST + column // 16 * 4)
        put_f32(apart + _WEIGHTS + 4 * (ROWS * k + row), scale * get_u8(q + column) - low)


def pick_columns(n_vectors: int) -> Any:
    """pick(apart, records): note which of the listed columns n_vectors of tokens, whose records these are, have."""

    def emit_wanted(b: ir.IRBuilder, records: ir.Value, column: ir.Value) -> ir.Value:
        mask_at, mask = b.add(records, b.mul(b.lshr(column, I64(5)), I64(4))), I32(0)
        for v in range(n_vectors):
            mask = b.or_(mask, loaded(b, mask_at, I32, LANES_MASKS + _RECORD * v))
        return b.trunc(b.lshr(mask, b.trunc(b.and_(column, I64(31)), I32)), I1)

    wanted = operation(types.boolean, [ADDRESS, types.int64], emit_wanted)

    @inline
    def pick(apart, records):
        n = 0
        for k in range(get_i64(apart)):
            if wanted(records, get_i64(apart + _COLUMNS + 8 * k)):
                put_i64(apart + _PICKED + 8 * n, k)
                n += 1
        put_i64(apart + 8, n)

    return pick


def add_apart(n_rows: int, n_vectors: int, lanes: int) -> Any:
    """add(acc, apart, row, records) → acc: the products of the columns that were picked, of n_rows from a row on.

    acc, records: as byte_group in micro_kernels.py has them.
    """
    floats = ir.VectorType(F32, lanes)

    @intrinsic
    def step(context, acc, weights, records, column):
        def codegen(context, b, sig, args):
            acc, weights, records, column = args
            g, bit = b.lshr(column, I64(5)), b.shl(I32(1), b.trunc(b.and_(column, I64(31)), I32))
            line, mask_at = b.add(records, b.mul(g, I64(_LINE))), b.add(records, b.mul(g, I64(4)))
            x = []
            for v in range(n_vectors):
                mask = splat(b, loaded(b, mask_at, I32, LANES_MASKS + _RECORD * v), lanes)
                own = b.icmp_unsigned("==", mask, splat(b, bit, lanes))
                value = loaded(b, line, floats, LANES_APART + _RECORD * v)
                x.append(b.select(own, value, constant(F32, [0.0] * lanes)))
            for r in range(n_rows):
                one = splat(b, loaded(b, weights, F32, 4 * r), lanes)
                for v in range(n_vectors):
                    at = r * n_vectors + v
                    acc = b.insert_value(acc, multiply_add(b, one, x[v], b.extract_value(acc, at)), at)
            return acc

        return acc(acc, weights, records, column), codegen

    @inline
    def add(acc, apart, row, records):
        for i in range(get_i64(apart + 8)):
            k = get_i64(apart + _PICKED + 8 * i)
            acc = step(acc, apart + _WEIGHTS + 4 * (ROWS * k + row), records, get_i64(apart + _COLUMNS + 8 * k))
        return acc

    return add

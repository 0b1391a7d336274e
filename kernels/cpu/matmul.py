"""Matrix times several tokens: out[token][row] = Σ weights[row][column]·x[token][column], for weights in any format.

A thread unpacks tiles of 16 rows × 256 columns into its L1 cache and takes its tokens past them, a few at a time,
with as many sums as there are registers for. Threads take chunks of rows, and of tokens where rows are few, off
shared counters.
"""

from __future__ import annotations

from typing import Any

from .. import formats
from ..code import Ref
from ..layout import COLUMNS, ROWS, SCRATCH, record_bytes
from ..simd import (
    TARGET,
    inline,
    load_f32,
    load_first,
    prefetch,
    splat_f32,
    store,
    store_first,
    take_turns,
    transpose,
)
from .activations import silu
from .inner import byte_group, float_column, load_tuple, store_tuple
from .records import writer
from .share import claim
from .units import least, unit_at

_TILES = 4  # tiles of rows that a thread takes at a time
_HALF = _TILES // 2 * ROWS  # rows of half of them
#: (tokens, tiles) that the inner loops take together, the most tokens first.
_SHAPES = ((6, 2), (2, 4), (1, 4)) if TARGET.n_registers == 32 else ((3, 1), (2, 1), (1, 1))
_MOST_TOKENS, _LEAST_TOKENS = 512, 64  # that a thread takes at a time, where there are so many

# A tile in scratch memory, of bytes: q as [column / 4][row][4], then scales and mins as f32[group of 16][row]; with
# groups of 32, whose scales come twice, the mins take the place of the second ones.
# Of floats: f32[column][row]. `_ROWWISE` holds the rows before they are transposed, one after the other.
_Q_TILE = COLUMNS * ROWS
_SCALES_TILE = COLUMNS // 16 * ROWS * 4
_TILE = COLUMNS * ROWS * 4
_ROWWISE = _TILES * _TILE
_UNIT = _ROWWISE + _TILE + 256  # a partial unit
_SUMS = _UNIT + 1024  # results, as f32[token][tile][row of the tile]
_STRIDE = _TILES * ROWS * 4  # of a token in them


def _tiler(fmt: formats.Format) -> Any:
    """tile(scratch, out, weights, row_bytes, n_rows, column, n_columns): unpack 16 rows of up to 256 columns."""
    unpack, unit, n_bytes, least_of = fmt.unpack, fmt.columns, fmt.n_bytes, least(fmt)
    n_vectors, address_of, group = unit // 64, unit_at(fmt), fmt.group

    @inline
    def tile_floats(scratch, out, weights, row_bytes, n_rows, column, n_columns):
        end = min(column + COLUMNS, n_columns)
        rowwise = scratch + _ROWWISE
        for r in range(ROWS):
            row = weights + min(r, n_rows - 1) * row_bytes
            for line in range(0, COLUMNS // unit * n_bytes, 64):
                prefetch(row + (column + COLUMNS) // unit * n_bytes + line)
            for c in range(column, end, 16):
                store(rowwise + 1024 * r + 4 * (c - column), unpack(address_of(scratch + _UNIT, row, c, n_columns)))
        for j in range(0, end - column, 16):
            transpose(rowwise + 4 * j, 1024, out + 64 * j)

    @inline
    def tile_bytes(scratch, out, weights, row_bytes, n_rows, column, n_columns):
        end = min(column + COLUMNS, n_columns)
        rowwise = scratch + _ROWWISE
        scales_at, mins_at = rowwise + _Q_TILE, rowwise + _Q_TILE + _SCALES_TILE + 64
        for r in range(ROWS):
            row = weights + min(r, n_rows - 1) * row_bytes
            for line in range(0, COLUMNS // unit * n_bytes, 64):  # the same row's next columns
                prefetch(row + (column + COLUMNS) // unit * n_bytes + line)
            for c in range(column, end, unit):
                q, scales, mins = unpack(address_of(scratch + _UNIT, row, c, n_columns))
                at = c - column
                for j in range(n_vectors):
                    store(rowwise + 256 * r + at + 64 * j, q[j])
                # a unit of 64 columns sets four lanes; what it writes beyond, the next unit overwrites
                if group == 32:
                    store(scales_at + 64 * r + at // 4, take_turns(scales, least_of(scales, mins)))
                else:
                    store(scales_at + 64 * r + at // 4, scales)
                    store(mins_at + 64 * r + at // 4, least_of(scales, mins))
        for j in range(0, end - column, 64):
            transpose(rowwise + j, 256, out + 16 * j)
        transpose(scales_at, 64, out + _Q_TILE)
        if group == 16:
            transpose(mins_at, 64, out + _Q_TILE + _SCALES_TILE)

    return tile_floats if fmt.is_float else tile_bytes


def _multiplier(fmt: formats.Format, n_tokens: int, n_tiles: int) -> Any:
    """multiply(tiles, x, sums, n_columns): n_tiles with n_tokens records, onto their sums."""
    load, save = load_tuple(n_tokens, n_tiles), store_tuple(n_tokens, n_tiles)
    if fmt.is_float:
        column_step = float_column(n_tokens, n_tiles, _TILE)

        @inline
        def multiply_floats(tiles, x, sums, n_columns):
            acc = load(sums, _STRIDE)
            for c in range(n_columns):
                acc = column_step(acc, tiles + 64 * c, x + 4 * c)
            save(sums, _STRIDE, acc)

        return multiply_floats

    group = fmt.group
    mins_offset = _SCALES_TILE if group == 16 else ROWS * 4
    step = byte_group(group, fmt.bits, n_tokens, n_tiles, _TILE, _Q_TILE, mins_offset)

    @inline
    def multiply_bytes(tiles, x, sums, n_columns):
        acc = load(sums, _STRIDE)
        for g in range((n_columns + group - 1) // group):
            acc = step(acc, tiles, x, g)
        save(sums, _STRIDE, acc)

    return multiply_bytes


def _products(name: str) -> Any:
    """products(scratch, a, a_row, b, b_row, row_bytes, n_rows, n_columns, x, n_tokens, first, end): fill `_SUMS`.

    Half of the tiles begin at a_row of the matrix a, half at b_row of b, both of n_rows; x: records of n_tokens, of
    which those from `first` to `end` are taken.
    """
    fmt = formats.get(name)
    tile, x_bytes = _tiler(fmt), record_bytes(name)
    (n_many, many_tiles), (n_few, few_tiles), (_, one_tiles) = _SHAPES
    many, few, one = (_multiplier(fmt, *shape) for shape in _SHAPES)

    @inline
    def products(scratch, a, a_row, b, b_row, row_bytes, n_rows, n_columns, x, n_tokens, first, end):
        for i in range((end - first) * _TILES):
            store(scratch + _SUMS + 64 * i, splat_f32(0.0))
        for column in range(0, n_columns, COLUMNS):
            for i in range(_TILES):
                matrix, row = (a, a_row + i * ROWS) if i < _TILES // 2 else (b, b_row + i * ROWS - _HALF)
                row = min(row, n_rows - 1)
                tile(scratch, scratch + i * _TILE, matrix + row * row_bytes, row_bytes, n_rows - row, column, n_columns)
            n, t = min(COLUMNS, n_columns - column), first
            records, sums = x + (column // COLUMNS * n_tokens + first) * x_bytes, scratch + _SUMS
            while t < end:
                if end - t >= n_many:
                    for i in range(0, _TILES, many_tiles):
                        many(scratch + i * _TILE, records, sums + 64 * i, n)
                    taken = n_many
                elif end - t >= n_few:
                    for i in range(0, _TILES, few_tiles):
                        few(scratch + i * _TILE, records, sums + 64 * i, n)
                    taken = n_few
                else:
                    for i in range(0, _TILES, one_tiles):
                        one(scratch + i * _TILE, records, sums + 64 * i, n)
                    taken = 1
                t, records, sums = t + taken, records + taken * x_bytes, sums + taken * _STRIDE

    return products


@inline
def _token_parts(n_tokens, n_chunks, n_threads):
    """Into how many parts to cut the tokens: enough work for all threads, but each weight unpacked for many tokens."""
    wanted = min(n_tokens // _LEAST_TOKENS, (4 * n_threads + n_chunks - 1) // n_chunks)
    return max(1, wanted, (n_tokens + _MOST_TOKENS - 1) // _MOST_TOKENS)


def linear(name: str) -> Any:
    """x: records; out: f32[token][n_rows]; bias: f32[n_rows] or 0; add: add to what is in `out`."""
    products, rows_taken = _products(name), 2 * _HALF

    @inline
    def finish(sums, out, bias, row, n, add):
        value = load_f32(sums)
        if bias:
            value = value + load_first(bias + 4 * row, n)
        if add:
            value = value + load_first(out, n)
        store_first(out, value, n)

    def body(
        thread: int, n_threads: int, counter: int,
        weights: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, bias: int, add: int, scratch: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        n_chunks = (n_rows + rows_taken - 1) // rows_taken
        n_parts = _token_parts(n_tokens, n_chunks, n_threads)
        while True:
            item = claim(counter, thread, n_threads, n_chunks * n_parts)
            if item >= n_chunks * n_parts:
                break
            row, part = item // n_parts * rows_taken, item % n_parts
            first, end = n_tokens * part // n_parts, n_tokens * (part + 1) // n_parts
            products(scratch, weights, row, weights, row + _HALF, row_bytes, n_rows, n_columns, x, n_tokens, first, end)
            for t in range(first, end):
                sums, to = scratch + _SUMS + (t - first) * _STRIDE, out + 4 * (t * n_rows + row)
                for i in range(0, min(rows_taken, n_rows - row), ROWS):
                    finish(sums + 4 * i, to + 4 * i, bias, row + i, n_rows - row - i, add)

    return body


def swiglu(name: str, kind: str) -> Any:
    """out = silu(gate·x)·(up·x) (Shazeer 2020), as rows of a kind (records.py); gate, up: weights of one shape."""
    products, put, rows_taken = _products(name), writer(kind), _HALF

    def body(
        thread: int, n_threads: int, counter: int,
        gate: int, up: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, scratch: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        n_chunks = (n_rows + rows_taken - 1) // rows_taken
        n_parts = _token_parts(n_tokens, n_chunks, n_threads)
        while True:
            item = claim(counter, thread, n_threads, n_chunks * n_parts)
            if item >= n_chunks * n_parts:
                break
            row, part = item // n_parts * rows_taken, item % n_parts
            first, end = n_tokens * part // n_parts, n_tokens * (part + 1) // n_parts
            products(scratch, gate, row, up, row, row_bytes, n_rows, n_columns, x, n_tokens, first, end)
            for t in range(first, end):
                sums = scratch + _SUMS + (t - first) * _STRIDE
                low = silu(load_f32(sums)) * load_f32(sums + 128)
                high = silu(load_f32(sums + 64)) * load_f32(sums + 192)
                put(out, t, row, low, high, n_rows, n_tokens)

    return body

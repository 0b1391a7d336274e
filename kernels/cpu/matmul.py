"""Products of weights, in any format, with activations: out[token][row] = Σ weights[row][column]·x[token][column].

`matvec` is for one token: it reads the mapped file once, at the speed of memory. `matmul` is for several: it
unpacks a tile of 16 rows × 256 columns into the L1 cache and takes all tokens past it. Both take chunks of
rows off a shared counter, so that fast and slow cores both stay busy.
"""

from __future__ import annotations

from typing import Any

from .. import formats
from ..code import Ref
from ..layout import COLUMNS, F32_BYTES, Q8_D, ROWS, SCRATCH, record_bytes
from ..simd import (
    TARGET,
    get_f32,
    inline,
    load_f32,
    prefetch,
    put_f32,
    reduce_add,
    splat_f32,
    store,
    transpose,
)
from .inner import byte_group, dot_unit, load_tuple, outer, store_tuple
from .share import claim
from .units import unit_at

_LEAST_ROWS, _MOST_ROWS = 16, 64  # that a thread takes at a time in matvec
_AHEAD = 4096  # bytes that matvec asks for in advance: a page, as the CPU's own prefetching ends with each
_TILES = 2  # tiles of rows that a thread takes at a time in matmul
_MANY, _FEW = (12, 4) if TARGET.n_registers == 32 else (3, 2)  # tokens that the inner loops take together


@inline
def _write(out, value, bias, row, add):
    """One result: plus the row's bias where there is one, onto what is there where `add` is set."""
    if bias:
        value += get_f32(bias + 4 * row)
    if add:
        value += get_f32(out)
    put_f32(out, value)


def _least(fmt: formats.Format) -> Any:
    """least(scales, mins) → what a unit's sums are multiplied by and subtracted: no format has an offset and mins."""
    offset = float(fmt.offset)

    @inline
    def from_offset(scales, mins):
        return splat_f32(offset) * scales

    @inline
    def from_mins(scales, mins):
        return mins

    return from_offset if offset else from_mins


def _unit_dot(fmt: formats.Format) -> Any:
    """dot(weights, record, column) → f32x16 whose lanes sum to the product of the unit at `column` of a record."""
    unpack = fmt.unpack
    if fmt.is_float:

        @inline
        def dot_floats(address, record, column):
            return unpack(address) * load_f32(record + 4 * column)

        return dot_floats

    dot, least = dot_unit(fmt.bits), _least(fmt)

    @inline
    def dot_bytes(address, record, column):
        q, scales, mins = unpack(address)
        return dot(q, scales, least(scales, mins), record + column, record + Q8_D + column // 4)

    return dot_bytes


def matvec(name: str) -> Any:
    """For one token. x: its records; out: f32[n_rows]; bias: f32[n_rows] or 0; add: add to `out`."""
    fmt = formats.get(name)
    unit, n_bytes = fmt.columns, fmt.n_bytes
    dot, address_of, x_bytes = _unit_dot(fmt), unit_at(fmt), record_bytes(name)
    units = COLUMNS // unit  # of a record

    def body(
        thread: int, n_threads: int, counter: int,
        weights: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, bias: int, add: int, scratch: int,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        chunk = min(_MOST_ROWS, max(_LEAST_ROWS, n_rows // (8 * n_threads)))
        whole = n_columns // COLUMNS
        n_chunks = (n_rows + chunk - 1) // chunk
        while True:
            first = claim(counter, thread, n_threads, n_chunks) * chunk
            if first >= n_rows:
                break
            for row in range(first, min(first + chunk, n_rows)):
                start = weights + row * row_bytes
                address, record, acc = start, x, splat_f32(0.0)
                for _ in range(whole):
                    for i in range(units):
                        for line in range(0, n_bytes, 64):
                            prefetch(address + i * n_bytes + line + _AHEAD)
                        acc = acc + dot(address + i * n_bytes, record, i * unit)
                    address, record = address + units * n_bytes, record + x_bytes
                for column in range(whole * COLUMNS, n_columns, unit):
                    last = address_of(scratch, start, column, n_columns)
                    acc = acc + dot(last, record, column - whole * COLUMNS)
                _write(out + 4 * row, reduce_add(acc), bias, row, add)

    return body


# --- many tokens ---------------------------------------------------------------------------------

# A tile in scratch memory, of bytes: q as [column / 4][row][4], then scales and mins as f32[group of 16][row].
# Of floats: f32[column][row]. `_ROWWISE` holds the rows before they are transposed, one after the other.
_Q_TILE = COLUMNS * ROWS
_SCALES_TILE = COLUMNS // 16 * ROWS * 4
_TILE = COLUMNS * ROWS * 4
_ROWWISE = _TILES * _TILE
_UNIT = _ROWWISE + _TILE + 256  # a partial unit
_SUMS = _UNIT + 1024  # results, as f32[token][row of the chunk]


def _tiler(fmt: formats.Format) -> Any:
    """tile(scratch, out, weights, row_bytes, n_rows, column, n_columns): unpack 16 rows of up to 256 columns."""
    unpack, unit, least = fmt.unpack, fmt.columns, _least(fmt)
    n_vectors, address_of = unit // 64, unit_at(fmt)

    @inline
    def tile_floats(scratch, out, weights, row_bytes, n_rows, column, n_columns):
        end = min(column + COLUMNS, n_columns)
        rowwise = scratch + _ROWWISE
        for r in range(ROWS):
            row = weights + min(r, n_rows - 1) * row_bytes
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
            for c in range(column, end, unit):
                q, scales, mins = unpack(address_of(scratch + _UNIT, row, c, n_columns))
                at = c - column
                for j in range(n_vectors):
                    store(rowwise + 256 * r + at + 64 * j, q[j])
                # a unit of 64 columns sets four lanes; what it writes beyond, the next unit overwrites
                store(scales_at + 64 * r + at // 4, scales)
                store(mins_at + 64 * r + at // 4, least(scales, mins))
        for j in range(0, end - column, 64):
            transpose(rowwise + j, 256, out + 16 * j)
        transpose(scales_at, 64, out + _Q_TILE)
        transpose(mins_at, 64, out + _Q_TILE + _SCALES_TILE)

    return tile_floats if fmt.is_float else tile_bytes


def _multiplier(fmt: formats.Format, n_tokens: int) -> Any:
    """multiply(tile, x, sums, stride, n_columns): a tile with n_tokens records, onto their sums."""
    load, save = load_tuple(n_tokens), store_tuple(n_tokens)
    if fmt.is_float:
        step = outer("f32", n_tokens, 1)

        @inline
        def multiply_floats(tile, x, sums, stride, n_columns):
            acc = load(sums, stride)
            for c in range(n_columns):
                acc = step(acc, x + 4 * c, F32_BYTES, tile + 64 * c)
            save(sums, stride, acc)

        return multiply_floats

    group = fmt.group
    step = byte_group(group, fmt.bits, _SCALES_TILE)

    @inline
    def multiply_bytes(tile, x, sums, stride, n_columns):
        acc = load(sums, stride)
        for g in range((n_columns + group - 1) // group):
            acc = step(acc, tile + 16 * group * g, tile + _Q_TILE + 4 * group * g, x, g)
        save(sums, stride, acc)

    return multiply_bytes


def matmul(name: str) -> Any:
    """For any number of tokens. x: records [column / 256][token]; out: f32[token][n_rows]; else as matvec."""
    fmt = formats.get(name)
    tile, many, few, one = _tiler(fmt), _multiplier(fmt, _MANY), _multiplier(fmt, _FEW), _multiplier(fmt, 1)
    x_bytes, rows_taken, stride = record_bytes(name), _TILES * ROWS, _TILES * ROWS * 4

    @inline
    def block(scratch, x, n_tokens, n_columns):
        """The tiles in scratch memory with up to 256 columns of every token."""
        sums, t = scratch + _SUMS, 0
        while t < n_tokens:
            n = _MANY if n_tokens - t >= _MANY else _FEW if n_tokens - t >= _FEW else 1
            for i in range(_TILES):
                at = scratch + i * _TILE
                if n == _MANY:
                    many(at, x + t * x_bytes, sums + t * stride + 64 * i, stride, n_columns)
                elif n == _FEW:
                    few(at, x + t * x_bytes, sums + t * stride + 64 * i, stride, n_columns)
                else:
                    one(at, x + t * x_bytes, sums + t * stride + 64 * i, stride, n_columns)
            t += n

    def body(
        thread: int, n_threads: int, counter: int,
        weights: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, bias: int, add: int, scratch: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        while True:
            first = claim(counter, thread, n_threads, (n_rows + rows_taken - 1) // rows_taken) * rows_taken
            if first >= n_rows:
                break
            for i in range(n_tokens * _TILES):
                store(scratch + _SUMS + 64 * i, splat_f32(0.0))
            for column in range(0, n_columns, COLUMNS):
                for i in range(_TILES):
                    row = min(first + i * ROWS, n_rows - 1)
                    address = weights + row * row_bytes
                    tile(scratch, scratch + i * _TILE, address, row_bytes, n_rows - row, column, n_columns)
                records = x + column // COLUMNS * n_tokens * x_bytes
                block(scratch, records, n_tokens, min(COLUMNS, n_columns - column))
            for t in range(n_tokens):
                for r in range(first, min(first + rows_taken, n_rows)):
                    value = get_f32(scratch + _SUMS + t * stride + 4 * (r - first))
                    _write(out + 4 * (t * n_rows + r), value, bias, r, add)

    return body

"""Matrix times several tokens: out[token][row] = Σ weights[row][column]·x[token][column], for weights in any format.

Tokens lie side by side in lanes (layout.py). A thread unpacks 64 rows × 256 columns into its L1 cache and takes all its
tokens past them, a few rows and tokens at a time, with as many sums as there are registers for. Threads take chunks of
rows, and of tokens where rows are few, off shared counters.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .. import formats
from ..layout import COLUMNS, LANES, MOST_TOKENS, RECORD_BYTES, SCRATCH
from ..library import Ref
from ..simd import (
    TARGET,
    begin_tiles,
    end_tiles,
    get_f32,
    inline,
    load_f32,
    load_first,
    load_i8x32,
    load_i8x64,
    prefetch_later,
    put_f32,
    splat_f32,
    store,
    store_first,
    transpose,
    weave,
)
from . import tiles
from .activation_packing import lanes_writer
from .activations import silu
from .block_tail import least, unit_at
from .micro_kernels import ROW, ROW_SCALES, ROWS, add_scaled, byte_group, float_column
from .outliers import APART_BYTES, add_apart, keep_weights, list_columns, pick_columns
from .requantise import OFFSET, bound, common_scales, round_unit
from .vector_tuples import load_tuple, store_tuple, zeros
from .work_stealing import claim

HALF = ROWS // 2  # of the rows that a thread takes at a time: so many are from each matrix of a gate
LINE = 4 * LANES
#: (rows, vectors of tokens, lanes of each) that the inner steps take together, the most tokens first.
_SHAPES = ((4, 3, 16), (4, 2, 16), (8, 1, 16), (8, 1, 8)) if TARGET.n_registers == 32 else ((4, 1, 8),) * 4
if TARGET.llvm_cpu == "x86-64-v3":
    _SHAPES = (*_SHAPES[:2], (4, 1, 16), (4, 1, 8))  # sums that do not fit wait in memory, which costs less than loads
_LEAST_TOKENS = 64  # that a thread takes at a time, where there are so many

# Scratch memory of a thread: unpacked rows, their scales and mins, a partial unit; columns that are kept apart; and
# results, f32[vector of tokens][row][16 tokens].
_SCALES = ROWS * max(ROW, tiles.ROW)
_MINS = _SCALES + ROWS * ROW_SCALES + 64
_UNIT = _MINS + ROWS * ROW_SCALES + 64
_BOUNDS = _UNIT + 512  # of 16 rows, what requantise.py needs
_INVERSES = _BOUNDS + 16 * 64
_APART = _INVERSES + 128
SUMS = _APART + APART_BYTES
VECTOR_SUMS = ROWS * LINE


def _unpacker(fmt: formats.Format, how: str) -> Any:
    """unpack(scratch, i, row, column, n_columns): a row's columns of one block, as row i in scratch."""
    if how == "tiles":
        return tiles.unpacker(fmt, _UNIT)
    unpack_unit, unit = fmt.unpack, fmt.columns
    address_of, least_of, has_mins = unit_at(fmt, unit), least(fmt), fmt.has_mins
    rounded = how == "rounded"

    @inline
    def unpack_floats(scratch, i, row, column, n_columns):
        out = scratch + ROW * i
        for c in range(column, min(column + ROW // 4, n_columns), unit):
            at = address_of(scratch + _UNIT, row, c, n_columns)
            store(out + 4 * (c - column), unpack_unit(at))

    @inline
    def copy_bfloats(scratch, i, row, column, n_columns):
        for c in range(0, min(ROW // 2, n_columns - column), unit):
            at = address_of(scratch + _UNIT, row, column + c, n_columns)
            store(scratch + ROW * i + 2 * c, load_i8x32(at))

    @inline
    def unpack_bytes(scratch, i, row, column, n_columns):
        at = address_of(scratch + _UNIT, row, column, n_columns)
        q, scales, mins = unpack_unit(at)
        for j in range(4):
            store(scratch + ROW * i + 64 * j, q[j])
        if rounded:  # the scales come and go in woven order
            keep_weights(scratch + _APART, i, scratch + ROW * i, scales, least_of(scales, mins))
            store(scratch + _SCALES + ROW_SCALES * i, scales)
            store(scratch + _MINS + ROW_SCALES * i, least_of(scales, mins))
            return
        store(scratch + _SCALES + ROW_SCALES * i, weave(scales))
        if has_mins:
            store(scratch + _MINS + ROW_SCALES * i, weave(mins))

    if how == "bfloats":
        return copy_bfloats
    return unpack_floats if fmt.is_float else unpack_bytes


def _filler(fmt: formats.Format, how: str) -> Any:
    """fill(scratch, first, n, rows, row_bytes, column, n_columns): unpack n rows of one block, from row `first` on."""
    unpack = _unpacker(fmt, how)

    @inline
    def fill(scratch, first, n, rows, row_bytes, column, n_columns):
        for i in range(n):
            unpack(scratch, first + i, rows + i * row_bytes, column, n_columns)

    if how != "rounded":
        return fill
    of_groups, to_bytes = bound(fmt.largest), round_unit(fmt.bits)

    @inline
    def fill_rounded(scratch, first, n, rows, row_bytes, column, n_columns):
        for start in range(0, n, 16):
            end = min(start + 16, n)
            for i in range(start, end):
                unpack(scratch, first + i, rows + i * row_bytes, column, n_columns)
                at = scratch + _SCALES + ROW_SCALES * (first + i)
                store(scratch + _BOUNDS + 64 * (i - start), of_groups(load_f32(at), load_f32(at + _MINS - _SCALES)))
            common_scales(scratch + _BOUNDS, scratch + _INVERSES, scratch + _INVERSES + 64)
            for i in range(start, end):
                at, q = scratch + _SCALES + ROW_SCALES * (first + i), scratch + ROW * (first + i)
                four = load_i8x64(q), load_i8x64(q + 64), load_i8x64(q + 128), load_i8x64(q + 192)
                inverse = get_f32(scratch + _INVERSES + 4 * (i - start))
                four = to_bytes(four, load_f32(at), load_f32(at + _MINS - _SCALES), inverse)
                for j in range(4):
                    store(q + 64 * j, four[j])
                put_f32(at, get_f32(scratch + _INVERSES + 64 + 4 * (i - start)))

    return fill_rounded


def _multiplier(fmt: formats.Format, how: str, n_rows: int, n_vectors: int, lanes: int) -> Any:
    """multiply(scratch, i, x, sums, n_columns): n_rows from row i on with n_vectors of tokens, onto their sums."""
    if how == "tiles":
        return tiles.multiplier(n_vectors, VECTOR_SUMS)
    load, save = (make(n_rows, n_vectors, VECTOR_SUMS, lanes) for make in (load_tuple, store_tuple))
    if fmt.is_float:
        pairs = how == "bfloats"
        column_step = float_column(n_rows, n_vectors, lanes, pairs)

        @inline
        def multiply_floats(scratch, i, x, sums, n_columns):
            acc, w = load(sums, LINE), scratch + ROW * i
            for c in range((n_columns + 1) // 2 if pairs else n_columns):
                acc = column_step(acc, w + 4 * c, x + LINE * c)
            save(sums, LINE, acc)

        return multiply_floats

    rounded = how == "rounded"
    bits, offset, has_mins = (8, OFFSET, False) if rounded else (fmt.bits, fmt.offset, fmt.has_mins)
    group = 32 if rounded else fmt.group
    step = byte_group(group, bits, offset, has_mins, rounded, n_rows, n_vectors, lanes)
    none, add = zeros(n_rows * n_vectors, lanes), add_scaled(n_rows, n_vectors)
    add_columns = add_apart(n_rows, n_vectors, lanes)

    @inline
    def multiply_bytes(scratch, i, x, sums, n_columns):
        q, scales, mins = scratch + ROW * i, scratch + _SCALES + ROW_SCALES * i, scratch + _MINS + ROW_SCALES * i
        acc = load(sums, LINE)
        for g in range((n_columns + 31) // 32):
            acc = step(acc, q, scales, mins, x, g)
        save(sums, LINE, acc)

    @inline
    def multiply_rounded(scratch, i, x, sums, n_columns):
        q, scales, acc = scratch + ROW * i, scratch + _SCALES + ROW_SCALES * i, none()
        for g in range((n_columns + 31) // 32):
            acc = step(acc, q, scales, scales, x, g)
        save(sums, LINE, add_columns(add(load(sums, LINE), acc, scales), scratch + _APART, i, x))

    return multiply_rounded if rounded else multiply_bytes


def _taker(fmt: formats.Format, how: str, shape: tuple[int, int, int], block_bytes: int) -> Any:
    """step(scratch, records, sums, n_taken, n_columns, ahead, wanted): all rows past the tokens of one step of a shape.

    ahead: where the weights lie that come when these are done, those of each half; asked for where `wanted`, a little
    at each step: a block of a row is too short for the CPU's own prefetching, and much at once waits for memory.
    """
    n_rows, multiply, pick = shape[0], _multiplier(fmt, how, *shape), pick_columns(shape[1])
    rounded = how == "rounded"

    @inline
    def step(scratch, records, sums, n_taken, n_columns, ahead, wanted):
        if rounded:
            pick(scratch + _APART, records)
        for i in range(0, n_taken, n_rows):
            at = (ahead[0] if i < HALF else ahead[1]) + i % HALF * block_bytes
            for line in range(0, n_rows * block_bytes if wanted else 0, 64):
                prefetch_later(at + line)
            multiply(scratch, i, records, sums + LINE * i, n_columns)

    return step


@cache
def products(name: str, how: str) -> Any:
    """multiply(scratch, a, a_row, b, b_row, n_next, row_bytes, n_rows, …, x, n_tokens, first, end): fill `SUMS`.

    Half of the rows begin at a_row of the matrix a, half at b_row of b, both of n_rows; those to come n_next rows on.
    x: records of n_tokens, of which those from `first`, a multiple of LANES, to `end` are taken.
    """
    fmt = formats.get(name)
    fill = _filler(fmt, how)
    shapes = _SHAPES
    if how == "tiles":
        form, block, shapes = "bfloat_lanes", COLUMNS, (*tiles.SHAPES, *tiles.SHAPES)
    elif fmt.is_float:
        form, block = ("bfloat_lanes", ROW // 2) if how == "bfloats" else ("float_lanes", ROW // 4)
    else:
        form, block = "byte_lanes", COLUMNS
    x_bytes = RECORD_BYTES[form]
    column_bytes = x_bytes // COLUMNS if fmt.is_float else 0  # blocks of bytes begin with a record
    (rows0, n0, _), (_, n1, _), (_, _, lanes2), (_, _, lanes3) = shapes
    least0, least1 = (LANES * (n - 1) if TARGET.n_registers == 32 else 1 << 30 for n in (n0, n1))
    block_bytes = block // fmt.columns * fmt.n_bytes
    take0, take1, take2, take3 = (_taker(fmt, how, shape, block_bytes) for shape in shapes)
    whole = max(8, rows0)  # rows are taken by so many
    begin, end_them = (begin_tiles, end_tiles) if how == "tiles" else (inline(lambda spare: None), inline(lambda: None))

    @inline
    def multiply(scratch, a, a_row, b, b_row, n_next, row_bytes, n_rows, n_columns, x, n_tokens, first, end):
        n_vectors, n_own = (n_tokens + LANES - 1) // LANES, (end - first + LANES - 1) // LANES
        n_here = min(HALF, n_rows - a_row), min(HALF, n_rows - b_row)
        n_taken = ROWS if n_here[1] > 0 else (n_here[0] + whole - 1) // whole * whole
        begin(scratch + _UNIT)
        for i in range(n_own * ROWS):
            store(scratch + SUMS + LINE * i, splat_f32(0.0))
        for column in range(0, n_columns, block):
            records = x + (column // COLUMNS * n_vectors + first // LANES) * x_bytes + column_bytes * (column % COLUMNS)
            if how == "rounded":
                list_columns(scratch + _APART, records, n_own)
            for half in range(2):
                rows = a + a_row * row_bytes if half == 0 else b + b_row * row_bytes
                fill(scratch, HALF * half, n_here[half], rows, row_bytes, column, n_columns)
            past = n_next * row_bytes + column // block * HALF * block_bytes
            ahead = a + a_row * row_bytes + past, b + b_row * row_bytes + past
            n, t, sums = min(block, n_columns - column), first, scratch + SUMS
            while t < end:
                if end - t > least0:
                    take0(scratch, records, sums, n_taken, n, ahead, t == first)
                    taken = n0 * LANES
                elif end - t > least1:
                    take1(scratch, records, sums, n_taken, n, ahead, t == first)
                    taken = n1 * LANES
                elif end - t > lanes3 and t % LANES == 0 and lanes2 == LANES:
                    take2(scratch, records, sums, n_taken, n, ahead, t == first)
                    taken = LANES
                else:
                    at = 4 * (t % LANES)
                    take3(scratch, records + at, sums + at, n_taken, n, ahead, t == first)
                    taken = lanes3
                t += taken
                crossed = t // LANES - (t - taken) // LANES
                records, sums = records + crossed * x_bytes, sums + crossed * VECTOR_SUMS
        end_them()

    return multiply


@inline
def _token_parts(n_tokens, n_chunks, n_threads):
    """Into how many parts to cut the tokens: enough work for all threads, but each weight unpacked for many tokens."""
    wanted = min(n_tokens // _LEAST_TOKENS, (4 * n_threads + n_chunks - 1) // n_chunks)
    return max(1, wanted, (n_tokens + MOST_TOKENS - 1) // MOST_TOKENS)


@inline
def _part_start(n_tokens, part, n_parts):
    """The first token of a part: a multiple of LANES."""
    return min(n_tokens, (n_tokens * part // n_parts + LANES - 1) // LANES * LANES)


@inline
def finish(sums, out, bias, row, n, add):
    """Store 16 sums, of which n are rows, from row `row` on."""
    value = load_f32(sums)
    if bias:
        value = value + load_first(bias + 4 * row, n)
    if add:
        value = value + load_first(out, n)
    store_first(out, value, n)


def linear(name: str, how: str = "exact") -> Any:
    """x: records in lanes; out: f32[token][n_rows]; bias: f32[n_rows] or 0; add: add to what is in `out`.

    how: "exact", "rounded" for weights rounded to bytes (requantise.py), "bfloats" for BF16 with x rounded to such,
    "tiles" for weights and x rounded to them (tiles.py).
    """
    multiply = products(name, how)

    def body(
        thread: int, n_threads: int, counter: int,
        weights: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, bias: int, add: int, scratch: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        n_chunks = (n_rows + ROWS - 1) // ROWS
        n_parts = _token_parts(n_tokens, n_chunks, n_threads)
        while True:
            item = claim(counter, thread, n_threads, n_chunks * n_parts)
            if item >= n_chunks * n_parts:
                break
            row, part = item // n_parts * ROWS, item % n_parts
            first, end = _part_start(n_tokens, part, n_parts), _part_start(n_tokens, part + 1, n_parts)
            multiply(
                scratch, weights, row, weights, row + HALF, ROWS, row_bytes, n_rows, n_columns, x, n_tokens, first,
                end,
            )  # fmt: skip
            for t in range(first, end, LANES):
                for i in range(0, min(ROWS, n_rows - row), 16):
                    sums = scratch + SUMS + (t - first) // LANES * VECTOR_SUMS + LINE * i
                    transpose(sums, LINE, sums)
                    for lane in range(min(LANES, end - t)):
                        to = out + 4 * ((t + lane) * n_rows + row + i)
                        finish(sums + LINE * lane, to, bias, row + i, n_rows - row - i, add)

    return body


def swiglu(name: str, kind: str, how: str = "exact") -> Any:
    """out = silu(gate·x)·(up·x) (Shazeer 2020), as rows of a kind (activation_packing); gate, up: of one shape."""
    multiply, put = products(name, how), lanes_writer(kind)

    def body(
        thread: int, n_threads: int, counter: int,
        gate: int, up: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, scratch: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        n_chunks = (n_rows + HALF - 1) // HALF
        n_parts = _token_parts(n_tokens, n_chunks, n_threads)
        while True:
            item = claim(counter, thread, n_threads, n_chunks * n_parts)
            if item >= n_chunks * n_parts:
                break
            row, part = item // n_parts * HALF, item % n_parts
            first, end = _part_start(n_tokens, part, n_parts), _part_start(n_tokens, part + 1, n_parts)
            multiply(scratch, gate, row, up, row, HALF, row_bytes, n_rows, n_columns, x, n_tokens, first, end)
            for t in range(first, end, LANES):
                sums = scratch + SUMS + (t - first) // LANES * VECTOR_SUMS
                for i in range(HALF):
                    at, value = sums + LINE * i, splat_f32(0.0)
                    if row + i < n_rows:
                        value = silu(load_f32(at)) * load_f32(at + LINE * HALF)
                    store(at, value)
                put(out, t, row, sums, n_rows, n_tokens)

    return body

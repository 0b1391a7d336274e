"""Matrix times a few tokens: out[token][row] = Σ weights[row][column]·x[token][column], for weights in any format.

Reads the mapped file once, at the speed of memory: each unit of weights is unpacked in registers and laid along the
records of all tokens. Threads take chunks of rows off shared counters.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .. import formats
from ..layout import COLUMNS, RECORD_BYTES, SCRATCH
from ..simd import get_f32, inline, load_f32, prefetch, prefetch_later, put_f32
from .activation_packing import writer
from .activations import silu
from .block_tail import least, unit_at
from .micro_kernels import dot_floats, dot_piece, dot_record, store_totals
from .vector_tuples import zeros
from .work_stealing import claim

_LEAST_ROWS, _MOST_ROWS = 16, 64  # that a thread takes at a time
GATED_ROWS = 32  # the same, of both matrices: a group of the records that come out
# Bytes to ask for in advance. Far ahead into the second cache: two pages, as the CPU's own prefetching ends with each;
# the first cache can wait for too few lines at once to keep the memory busy (F16 on Zen 4 takes 1.7 times as long). And
# from there into the first cache: without that, models that the third cache holds in part take 1.25 times as long.
_FAR, _NEAR = 8192, 2048
ROW_SUMS = 1024  # in a thread's scratch: f32[token][GATED_ROWS], twice; before them a partial unit
_STRIDE = 4 * GATED_ROWS


@inline
def _ask(address):
    prefetch_later(address + _FAR)
    prefetch(address + _NEAR)


@cache
def row_dot(name: str, n_tokens: int) -> Any:
    """dot(sums, row, x, n_columns, spare, stride): products of the row at an address with n_tokens' records, to `sums`.

    sums: of the first token's f32, the next one's _STRIDE bytes on. stride: bytes from a record to the token's next.
    """
    fmt = formats.get(name)
    return _float_dot(fmt, n_tokens) if fmt.is_float else _byte_dot(fmt, n_tokens)


def _float_dot(fmt: formats.Format, n_tokens: int) -> Any:
    unpack, unit, n_bytes, address_of = fmt.unpack, fmt.columns, fmt.n_bytes, unit_at(fmt, fmt.columns)
    none, dot, save = zeros(n_tokens), dot_floats(n_tokens), store_totals(n_tokens, _STRIDE)

    @inline
    def row_dot(sums, row, x, n_columns, spare, stride):
        acc, whole = none(), n_columns // 64 * 64
        for column in range(0, whole, 64):
            at, record = row + column // unit * n_bytes, x + column // COLUMNS * stride + 4 * (column % COLUMNS)
            for line in range(0, 4 * n_bytes, 64):
                _ask(at + line)
            for i in range(4):
                acc = dot(acc, unpack(at + i * n_bytes), record + 64 * i)
        for column in range(whole, n_columns, unit):
            record = x + column // COLUMNS * stride + 4 * (column % COLUMNS)
            acc = dot(acc, unpack(address_of(spare, row, column, n_columns)), record)
        save(sums, acc)

    return row_dot


def _byte_dot(fmt: formats.Format, n_tokens: int) -> Any:
    unpack, n_bytes = fmt.unpack, fmt.n_bytes
    dot, least_of, tail = dot_record(fmt.bits, n_tokens), least(fmt), _tail_dot(fmt, n_tokens)
    none, save = zeros(n_tokens), store_totals(n_tokens, _STRIDE)

    @inline
    def row_dot(sums, row, x, n_columns, spare, stride):
        address, records, acc = row, x, none()
        for _ in range(n_columns // COLUMNS):
            for line in range(0, n_bytes, 64):
                _ask(address + line)
            q, scales, mins = unpack(address)
            acc = dot(acc, q, scales, least_of(scales, mins), records)
            address, records = address + n_bytes, records + stride
        save(sums, tail(acc, row, records, n_columns, spare))

    return row_dot


def _tail_dot(fmt: formats.Format, n_tokens: int) -> Any:
    """tail(acc, row, records, n_columns, spare) → acc with the columns after the last whole unit, in pieces of 64."""
    if fmt.block == COLUMNS:
        return inline(lambda acc, row, records, n_columns, spare: acc)
    if fmt.piece is None:
        return _unit_tail(fmt, n_tokens)
    piece, least_of, address_of = fmt.piece, least(fmt), unit_at(fmt, 64)
    first_dot, second_dot, third_dot, fourth_dot = (dot_piece(fmt.bits, place, n_tokens) for place in range(4))

    @inline
    def tail(acc, row, records, n_columns, spare):
        column = n_columns // COLUMNS * COLUMNS
        if column < n_columns:
            q, scales, mins = piece(address_of(spare, row, column, n_columns))
            acc = first_dot(acc, q, scales, least_of(scales, mins), records)
        if column + 64 < n_columns:
            q, scales, mins = piece(address_of(spare, row, column + 64, n_columns))
            acc = second_dot(acc, q, scales, least_of(scales, mins), records)
        if column + 128 < n_columns:
            q, scales, mins = piece(address_of(spare, row, column + 128, n_columns))
            acc = third_dot(acc, q, scales, least_of(scales, mins), records)
        if column + 192 < n_columns:
            q, scales, mins = piece(address_of(spare, row, column + 192, n_columns))
            acc = fourth_dot(acc, q, scales, least_of(scales, mins), records)
        return acc

    return tail


def _stride(name: str, n_tokens: int) -> int:
    """Bytes from a record to the next of the same token, where n_tokens lie side by side."""
    return n_tokens * RECORD_BYTES["floats" if formats.get(name).is_float else "bytes"]


@inline
def row_chunk(n_rows, n_threads):
    """How many of all rows a thread takes at a time."""
    return min(_MOST_ROWS, max(_LEAST_ROWS, n_rows // (8 * n_threads)))


def _unit_tail(fmt: formats.Format, n_tokens: int) -> Any:
    """The same in one unit that is filled up with zeros, as the records are."""
    dot, unpack, least_of, address_of = dot_record(fmt.bits, n_tokens), fmt.unpack, least(fmt), unit_at(fmt, COLUMNS)

    @inline
    def tail(acc, row, records, n_columns, spare):
        column = n_columns // COLUMNS * COLUMNS
        if column < n_columns:
            q, scales, mins = unpack(address_of(spare, row, column, n_columns))
            acc = dot(acc, q, scales, least_of(scales, mins), records)
        return acc

    return tail


def linear(name: str, n_tokens: int) -> Any:
    """x: n_tokens' records; out: f32[token][n_rows]; bias: f32[n_rows] or 0; add: add to what is in `out`."""
    dot, stride = row_dot(name, n_tokens), _stride(name, n_tokens)

    def body(
        thread: int, n_threads: int, counter: int,
        weights: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, bias: int, add: int, scratch: int,
    ) -> None:  # fmt: skip
        spare = scratch + thread * SCRATCH
        chunk = row_chunk(n_rows, n_threads)
        while True:
            first = claim(counter, thread, n_threads, (n_rows + chunk - 1) // chunk) * chunk
            if first >= n_rows:
                break
            for row in range(first, min(first + chunk, n_rows)):
                dot(spare + ROW_SUMS, weights + row * row_bytes, x, n_columns, spare, stride)
                for t in range(n_tokens):
                    value, to = get_f32(spare + ROW_SUMS + _STRIDE * t), out + 4 * (t * n_rows + row)
                    if bias:
                        value += get_f32(bias + 4 * row)
                    if add:
                        value += get_f32(to)
                    put_f32(to, value)

    return body


def swiglu(name: str, n_tokens: int, kind: str) -> Any:
    """out = silu(gate·x)·(up·x) (Shazeer 2020), as rows of a kind (activation_packing); gate, up: of one shape."""
    dot, stride, put = row_dot(name, n_tokens), _stride(name, n_tokens), writer(kind)

    @inline
    def products(weights, row_bytes, first, n_rows, x, n_columns, sums, spare):
        for i in range(GATED_ROWS):
            row = min(first + i, n_rows - 1)
            dot(sums + 4 * i, weights + row * row_bytes, x, n_columns, spare, stride)

    def body(
        thread: int, n_threads: int, counter: int,
        gate: int, up: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, scratch: int,
    ) -> None:  # fmt: skip
        spare = scratch + thread * SCRATCH
        gates, ups = spare + ROW_SUMS, spare + ROW_SUMS + _STRIDE * n_tokens
        while True:
            first = claim(counter, thread, n_threads, (n_rows + GATED_ROWS - 1) // GATED_ROWS) * GATED_ROWS
            if first >= n_rows:
                break
            products(gate, row_bytes, first, n_rows, x, n_columns, gates, spare)
            products(up, row_bytes, first, n_rows, x, n_columns, ups, spare)
            for t in range(n_tokens):
                a, b = gates + _STRIDE * t, ups + _STRIDE * t
                low, high = silu(load_f32(a)) * load_f32(b), silu(load_f32(a + 64)) * load_f32(b + 64)
                put(out, t, first, low, high, n_rows, n_tokens)

    return body

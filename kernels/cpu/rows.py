"""Operations on rows of activations: embedding, norms, activation functions, sums, packing.

Rows that come in are f32, of any length; activation_packing.py says in which kinds they go out. Threads take rows, or
parts of them, off shared counters.
"""

from __future__ import annotations

from typing import Any

from .. import formats
from ..layout import LANES, SCRATCH
from ..library import Ref
from ..simd import (
    first_lanes,
    fma,
    get_f32,
    get_i32,
    inline,
    load_f32,
    load_first,
    put_f32,
    reduce_add,
    splat_f32,
    store,
    store_first,
    transpose,
)
from .activation_packing import lanes_writer, writer
from .activations import gelu, relu, sigmoid, silu
from .block_tail import unit_at
from .micro_kernels import dequantise
from .work_stealing import claim

_PART = 1024  # columns of a row that a thread takes at a time
_SQUARE = 4 * LANES * LANES
_TOGETHER = 8  # tokens that a thread takes at a time: those side by side in lanes share cache lines


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

    address_of = unit_at(fmt, unit)

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


def _statistics(kind: str) -> Any:
    """What a norm of a kind takes from each number of a row, and what it multiplies by: the function, from the row."""
    centred, l2 = kind == "layer", kind == "l2"

    @inline
    def statistics(row, n_columns, eps):
        mean = splat_f32(0.0)
        if centred:
            sums = splat_f32(0.0)
            for i in range(0, n_columns, 16):
                sums = sums + load_first(row + 4 * i, n_columns - i)
            mean = splat_f32(reduce_add(sums) / n_columns)
        squares, others = splat_f32(0.0), splat_f32(0.0)
        for i in range(0, n_columns, 32):
            low, high = load_first(row + 4 * i, n_columns - i), load_first(row + 4 * i + 64, n_columns - i - 16)
            if centred:  # what lies beyond the row stays zero
                low = first_lanes(low - mean, n_columns - i, 0.0)
                high = first_lanes(high - mean, n_columns - i - 16, 0.0)
            squares, others = fma(low, low, squares), fma(high, high, others)
        total = reduce_add(squares + others)
        if l2:
            return mean, 1.0 / max(total**0.5, eps)
        return mean, 1.0 / (total / n_columns + eps) ** 0.5

    return statistics


def _normed(kind: str, terms: str) -> Any:
    """Sixteen numbers of a row, normed; terms: which vectors there are, of "weight" and "bias"."""
    centred, weighted, biased = kind == "layer", "weight" in terms, "bias" in terms

    @inline
    def normed(row, weight, bias, column, n_columns, mean, scale):
        at, n = 4 * column, n_columns - column
        x = load_first(row + at, n)
        if centred:
            x = x - mean
        y = x * splat_f32(scale)
        if weighted:
            y = y * load_first(weight + at, n)
        return y + load_first(bias + at, n) if biased else y

    return normed


def norm(kind: str, terms: str, form: str) -> Any:
    """Norms of rows, as rows of a form: x / √(mean x² + eps) (Zhang & Sennrich 2019), "layer": of x less its mean (Ba
    et al. 2016), "l2": x / max(√Σx², eps); times a weight, plus a bias, where `terms` name them.

    n_columns: of one of n_heads heads, which are normed each for itself; several are "plain" only, and share a
    weight and a bias, or have their own where own_weights is 1.
    """
    return _norm_lanes(kind, terms, form) if form.endswith("lanes") else _norm_rows(kind, terms, form)


def _norm_rows(kind: str, terms: str, form: str) -> Any:
    put, statistics, normed = writer(form), _statistics(kind), _normed(kind, terms)

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, weight: int, bias: int, out: int, n_columns: int, n_heads: int, own_weights: int, eps: float,
        scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        n_rows = n_tokens * n_heads
        n_items = (n_rows + _TOGETHER - 1) // _TOGETHER
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            for t in range(item * _TOGETHER, min((item + 1) * _TOGETHER, n_rows)):
                row, of_head = x + 4 * t * n_columns, 4 * (t % n_heads) * own_weights * n_columns
                w, b = weight + of_head, bias + of_head
                mean, scale = statistics(row, n_columns, eps)
                for c in range(0, n_columns, 32):
                    low = normed(row, w, b, c, n_columns, mean, scale)
                    high = normed(row, w, b, c + 16, n_columns, mean, scale)
                    put(out, t, c, low, high, n_columns, n_rows)

    return body


def _norm_lanes(kind: str, terms: str, form: str) -> Any:
    put, statistics, normed = lanes_writer(form), _statistics(kind), _normed(kind, terms)

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, weight: int, bias: int, out: int, n_columns: int, n_heads: int, own_weights: int, eps: float,
        scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        values = scratch + thread * SCRATCH  # f32[32 columns][16 tokens], as two squares
        scales, n_items = values + 2 * _SQUARE, (n_tokens + LANES - 1) // LANES
        means = scales + 4 * LANES
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            first, n_own = item * LANES, min(LANES, n_tokens - item * LANES)
            for t in range(n_own):
                mean, scale = statistics(x + 4 * (first + t) * n_columns, n_columns, eps)
                store(means + 64 * t, mean)
                put_f32(scales + 4 * t, scale)
            for c in range(0, n_columns, 32):
                for half in range(2):
                    square = values + _SQUARE * half
                    for t in range(LANES):
                        own, value = x + 4 * (first + t) * n_columns, splat_f32(0.0)
                        if t < n_own:
                            value = normed(
                                own, weight, bias, c + 16 * half, n_columns, load_f32(means + 64 * t),
                                get_f32(scales + 4 * t),
                            )  # fmt: skip
                        store(square + 64 * t, value)
                    transpose(square, 64, square)
                put(out, first, c, values, n_columns, n_tokens)

    return body


def _by_parts(function: Any, kind: str) -> Any:
    """A kernel: out = function(a, b), number by number, as rows of a kind. Threads take parts of a row."""
    put = writer(kind)

    def body(
        thread: int, n_threads: int, counter: int,
        a: int, b: int, out: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        parts = (n_columns + _PART - 1) // _PART
        while True:
            item = claim(counter, thread, n_threads, n_tokens * parts)
            if item >= n_tokens * parts:
                break
            t, first = item // parts, item % parts * _PART
            x, y = a + 4 * t * n_columns, b + 4 * t * n_columns
            for i in range(first, min(first + _PART, n_columns), 64):
                for c in range(i, i + 64, 32):
                    n = n_columns - c
                    low = function(load_first(x + 4 * c, n), load_first(y + 4 * c, n))
                    high = function(load_first(x + 4 * c + 64, n - 16), load_first(y + 4 * c + 64, n - 16))
                    put(out, t, c, low, high, n_columns, n_tokens)

    return body


def gate(name: str, kind: str) -> Any:
    """out = activation(a)·b (Shazeer 2020), as rows of a kind."""
    activation = {"silu": silu, "gelu": gelu, "relu": relu, "sigmoid": sigmoid}[name]
    return _by_parts(inline(lambda x, y: activation(x) * y), kind)


def add() -> Any:
    """out = a + b, rows of n_columns."""
    return _by_parts(inline(lambda x, y: x + y), "plain")


def pack(kind: str) -> Any:
    """out = a, as rows of a kind; b is of no account."""
    return _by_parts(inline(lambda x, y: x), kind)


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

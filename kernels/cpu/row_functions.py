"""Functions of whole rows: softmax, what stands out of a row, and matrices made doubly stochastic."""

from __future__ import annotations

from typing import Any

from ..library import Ref
from ..simd import (
    divide,
    exp,
    first_lanes,
    get_f32,
    load_first,
    maximum,
    put_f32,
    reduce_add,
    reduce_max,
    splat_f32,
    sqrt,
    store_first,
)
from .work_stealing import claim

_LOWEST = -3e38


def softmax() -> Any:
    """out = e^x / Σ e^x over each head of n_columns; a task: a head of a token."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, out: int, n_heads: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        while True:
            item = claim(counter, thread, n_threads, n_tokens * n_heads)
            if item >= n_tokens * n_heads:
                break
            row, to = x + 4 * item * n_columns, out + 4 * item * n_columns
            most = splat_f32(_LOWEST)
            for i in range(0, n_columns, 16):
                n = n_columns - i
                most = maximum(most, first_lanes(load_first(row + 4 * i, n), n, _LOWEST))
            largest, total = splat_f32(reduce_max(most)), splat_f32(0.0)
            for i in range(0, n_columns, 16):
                grown = exp(load_first(row + 4 * i, n_columns - i) - largest)
                store_first(to + 4 * i, grown, n_columns - i)
                total = total + first_lanes(grown, n_columns - i, 0.0)
            share = splat_f32(1.0 / reduce_add(total))
            for i in range(0, n_columns, 16):
                store_first(to + 4 * i, load_first(to + 4 * i, n_columns - i) * share, n_columns - i)

    return body


def sparse() -> Any:
    """out = max(x - (mean + deviations·standard deviation), 0) over each head of n_columns, with n - 1 degrees of
    freedom; a task: a head of a token."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, out: int, n_heads: int, n_columns: int, deviations: float, n_tokens: Ref,
    ) -> None:  # fmt: skip
        while True:
            item = claim(counter, thread, n_threads, n_tokens * n_heads)
            if item >= n_tokens * n_heads:
                break
            row, to = x + 4 * item * n_columns, out + 4 * item * n_columns
            total = splat_f32(0.0)
            for i in range(0, n_columns, 16):
                total = total + first_lanes(load_first(row + 4 * i, n_columns - i), n_columns - i, 0.0)
            mean, squares = splat_f32(reduce_add(total) / n_columns), splat_f32(0.0)
            for i in range(0, n_columns, 16):
                apart = first_lanes(load_first(row + 4 * i, n_columns - i) - mean, n_columns - i, 0.0)
                squares = squares + apart * apart
            deviation = sqrt(splat_f32(reduce_add(squares) / (n_columns - 1)))
            least = mean + deviation * splat_f32(deviations)
            for i in range(0, n_columns, 16):
                beyond = maximum(load_first(row + 4 * i, n_columns - i) - least, splat_f32(0.0))
                store_first(to + 4 * i, beyond, n_columns - i)

    return body


def sinkhorn() -> Any:
    """out = the matrix n × n of each token, n up to 16, made nearly doubly stochastic (Sinkhorn & Knopp 1967), and
    transposed: softmax of rows, then columns and rows in turns divided by their sums, `iterations` times."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, out: int, n: int, iterations: int, eps: float, n_tokens: Ref,
    ) -> None:  # fmt: skip
        while True:
            item = claim(counter, thread, n_threads, n_tokens)
            if item >= n_tokens:
                break
            matrix, m = x + 4 * item * n * n, out + 4 * item * n * n
            small = splat_f32(eps)
            for i in range(n):
                row = first_lanes(load_first(matrix + 4 * i * n, n), n, _LOWEST)
                grown = first_lanes(exp(row - splat_f32(reduce_max(row))), n, 0.0)
                store_first(m + 4 * i * n, grown * splat_f32(1.0 / reduce_add(grown)) + small, n)
            for turn in range(2 * iterations - 1):
                total = small
                for i in range(n):
                    total = total + load_first(m + 4 * i * n, n)
                for i in range(n):
                    row = load_first(m + 4 * i * n, n)
                    if turn % 2:
                        total = splat_f32(reduce_add(first_lanes(row, n, 0.0)) + eps)
                    store_first(m + 4 * i * n, divide(row, total), n)
            for i in range(n):
                for j in range(i):
                    here, there = m + 4 * (i * n + j), m + 4 * (j * n + i)
                    value = get_f32(here)
                    put_f32(here, get_f32(there))
                    put_f32(there, value)

    return body

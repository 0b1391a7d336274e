"""Softmax of rows."""

from __future__ import annotations

from typing import Any

from ..library import Ref
from ..simd import (
    exp,
    first_lanes,
    load_first,
    maximum,
    reduce_add,
    reduce_max,
    splat_f32,
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

"""Texts as single rows."""

from __future__ import annotations

from typing import Any

from ..library import Ref
from ..simd import get_i32, load_first, splat_f32, store_first
from .work_stealing import claim

_PART = 64  # columns that a thread takes at a time


def mean() -> Any:
    """out[i] = the mean of x[first_rows[i]] … x[last_rows[i]], rows of n_columns; first_rows, last_rows: i32.

    A task: some columns of a text.
    """

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, first_rows: int, last_rows: int, out: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        parts = (n_columns + _PART - 1) // _PART
        while True:
            item = claim(counter, thread, n_threads, n_tokens * parts)
            if item >= n_tokens * parts:
                break
            text, begin = item // parts, item % parts * _PART
            first, last = get_i32(first_rows + 4 * text), get_i32(last_rows + 4 * text)
            share = splat_f32(1.0 / (last - first + 1))
            for i in range(begin, min(begin + _PART, n_columns), 16):
                total = splat_f32(0.0)
                for row in range(first, last + 1):
                    total = total + load_first(x + 4 * (row * n_columns + i), n_columns - i)
                store_first(out + 4 * (text * n_columns + i), total * share, n_columns - i)

    return body

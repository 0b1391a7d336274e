"""Units of weights: where one lies, also the last of a row, which may be cut off, and what is subtracted from it."""

from __future__ import annotations

from typing import Any

from ..formats import Format
from ..simd import get_u8, inline, load_i8x16, put_i8, splat_f32, splat_i8, store


def unit_at(fmt: Format, n_columns: int) -> Any:
    """unit_at(spare, row, column, end) → the address of n_columns, a unit or a piece of one, from `column` on.

    Where the row ends within them, a copy at `spare`, filled up with zeros, so that nothing is read beyond.
    """
    n_bytes = fmt.n_bytes * n_columns // fmt.columns

    @inline
    def address(spare, row, column, end):
        at, rest = row + column * n_bytes // n_columns, end - column
        if rest >= n_columns:
            return at
        kept = rest * n_bytes // n_columns
        for i in range(0, n_bytes, 64):
            store(spare + i, splat_i8(0))
        if kept >= 16:  # the last step overlaps the one before
            for i in range(0, kept, 16):
                i = min(i, kept - 16)
                store(spare + i, load_i8x16(at + i))
        else:
            for i in range(kept):
                put_i8(spare + i, get_u8(at + i))
        return spare

    return address


def least(fmt: Format) -> Any:
    """least(scales, mins) → what a unit's sums are multiplied by and subtracted: no format has an offset and mins."""
    offset = float(fmt.offset)

    @inline
    def from_offset(scales, mins):
        return splat_f32(offset) * scales

    @inline
    def from_mins(scales, mins):
        return mins

    return from_offset if offset else from_mins

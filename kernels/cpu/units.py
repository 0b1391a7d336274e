"""Units of weights: where one lies, also the last of a row, which may be cut off, and what is subtracted from it."""

from __future__ import annotations

from typing import Any

from ..formats import Format
from ..simd import get_u8, inline, put_i8, splat_f32


def unit_at(fmt: Format) -> Any:
    """unit_at(spare, row, column, n_columns) → the address of the unit that begins at `column`.

    Where the row ends within the unit, a copy at `spare`, filled up with zeros, so that nothing is read beyond.
    """
    unit, n_bytes = fmt.columns, fmt.n_bytes

    @inline
    def address(spare, row, column, n_columns):
        at, rest = row + column // unit * n_bytes, n_columns - column
        if rest >= unit:
            return at
        kept = rest * n_bytes // unit
        for i in range(n_bytes):
            put_i8(spare + i, get_u8(at + i) if i < kept else 0)
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

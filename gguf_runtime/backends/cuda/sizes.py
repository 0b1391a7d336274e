"""Rounding of sizes: to whole tiles, pages and lines."""

from __future__ import annotations


def up(n: int, to: int) -> int:
    """n, rounded up to a multiple."""
    return -(-n // to) * to


def tiles_of(n: int, size: int) -> int:
    """How many tiles of a size it takes."""
    return -(-n // size)

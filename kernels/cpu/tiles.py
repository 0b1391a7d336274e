"""Products in tiles (simd/tiles.py): weights of any type become bf16, which keeps more of them than bytes would."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ..formats import Format
from ..layout import COLUMNS, LANES, RECORD_BYTES, WOVEN
from ..simd import (
    ADDRESS,
    I64,
    bytes_to_f32,
    fma,
    get_f32,
    inline,
    load_i8x16,
    load_i8x32,
    load_tile,
    look_up_bfloats,
    multiply_tiles,
    negative,
    numbers_f32,
    operation,
    splat_f32,
    store,
    store_tile,
    to_bfloat,
    two_to_bfloats,
)
from .block_tail import least, unit_at

ROW = 2 * COLUMNS  # bytes from one row of weights, unpacked, to the next
SHAPES = ((32, 2, LANES), (32, 1, LANES))  # (rows, vectors of tokens, lanes of each) that are multiplied together
_TILE_COLUMNS = 32
_LINES = LANES * 64  # bytes of the activations that meet a tile
_OUT, _LEFT, _RIGHT = 0, 4, 6  # the first of the tiles for sums [row][vector], for rows, for vectors
_Q, _SCALES, _LEAST = 512, 768, 832  # what a unit's bytes are unpacked to, in spare memory


def unpacker(fmt: Format, spare: int) -> Any:
    """unpack(scratch, i, row, column, n_columns): a row's columns of one block, as row i of bf16 in scratch."""
    unpack_unit, unit = fmt.unpack, fmt.columns
    address_of, least_of = unit_at(fmt, unit), least(fmt)

    @inline
    def copy(scratch, i, row, column, n_columns):
        whole_tiles = (n_columns - column + _TILE_COLUMNS - 1) // _TILE_COLUMNS * _TILE_COLUMNS
        for c in range(0, min(COLUMNS, whole_tiles), unit):
            at = address_of(scratch + spare, row, column + c, n_columns)
            store(scratch + ROW * i + 2 * c, load_i8x32(at))

    @inline
    def scaled(spare, q, g):
        """f32x16 q of the 16 columns g, as the weights that they are."""
        scale = splat_f32(get_f32(spare + _SCALES + 4 * WOVEN[g]))
        return fma(q, scale, splat_f32(get_f32(spare + _LEAST + 4 * WOVEN[g])))

    @inline
    def convert(spare, out):
        for g in range(16):
            store(out + 32 * g, to_bfloat(scaled(spare, bytes_to_f32(load_i8x16(spare + _Q + 16 * g)), g)))

    @inline
    def look_up(spare, out):
        """All weights that there are of two groups fit a register."""
        for g in range(0, 16, 4):
            table = two_to_bfloats(scaled(spare, numbers_f32(), g), scaled(spare, numbers_f32(), g + 2))
            for half in range(2):
                to = 16 * g + 32 * half
                store(out + 2 * to, look_up_bfloats(spare + _Q + to, table, 16 * half))

    make = look_up if fmt.group == 32 and fmt.largest < 16 else convert

    @inline
    def unpack(scratch, i, row, column, n_columns):
        spare_at = scratch + spare
        q, scales, mins = unpack_unit(address_of(spare_at, row, column, n_columns))
        for j in range(4):
            store(spare_at + _Q + 64 * j, q[j])
        store(spare_at + _SCALES, scales)
        store(spare_at + _LEAST, negative(least_of(scales, mins)))
        make(spare_at, scratch + ROW * i)

    return copy if fmt.is_float else unpack


def multiplier(n_vectors: int, vector_sums: int) -> Any:
    """multiply(scratch, i, x, sums, n_columns): 32 rows from row i on with n_vectors of tokens, onto their sums.

    vector_sums: bytes from one vector's sums to the next's.
    """
    size = RECORD_BYTES["bfloat_lanes"]
    places = [(r, v) for r in range(2) for v in range(n_vectors)]

    def of_sums(move: Any) -> Any:
        def emit(b: ir.IRBuilder, sums: ir.Value) -> None:
            for i, (r, v) in enumerate(places):
                move(b, _OUT + i, b.add(sums, I64(vector_sums * v + 16 * 64 * r)), 64)

        return operation(types.void, [ADDRESS], emit)

    def emit_step(b: ir.IRBuilder, rows: ir.Value, lines: ir.Value) -> None:
        for v in range(n_vectors):
            load_tile(b, _RIGHT + v, b.add(lines, I64(size * v)), 64)
        for r in range(2):
            load_tile(b, _LEFT + r, b.add(rows, I64(16 * ROW * r)), ROW)
        for i, (r, v) in enumerate(places):
            multiply_tiles(b, _OUT + i, _LEFT + r, _RIGHT + v)

    load, save, step = of_sums(load_tile), of_sums(store_tile), operation(types.void, [ADDRESS, ADDRESS], emit_step)

    @inline
    def multiply(scratch, i, x, sums, n_columns):
        load(sums)
        for k in range((n_columns + _TILE_COLUMNS - 1) // _TILE_COLUMNS):
            step(scratch + ROW * i + 64 * k, x + _LINES * k)
        save(sums)

    return multiply

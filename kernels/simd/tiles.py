"""Tiles, of Intel's AMX: eight registers of 16 rows × 64 bytes, and the product of two as matrices.

Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter "Intel AMX". Which register is meant is
part of an instruction; their contents are no values that LLVM knows of, so nothing else may use them meanwhile.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types

from .vectors import ADDRESS, I8, I64, call, constant, operation, stored

ROWS, BYTES = 16, 64  # of a tile


def _begin(b: ir.IRBuilder, spare: ir.Value) -> None:
    # palette 1; from byte 16 the bytes of each tile's rows (16 bits each), from byte 48 its rows
    stored(b, spare, constant(I8, [1, *[0] * 15, *[BYTES, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8]))
    call(b, "x86.ldtilecfg", ir.VoidType(), [b.inttoptr(spare, I8.as_pointer())])


#: begin_tiles(spare): make this thread's tiles ready, all of full size; spare: of 64 bytes. end_tiles(): give them up.
begin_tiles = operation(types.void, [ADDRESS], _begin)
end_tiles = operation(types.void, [], lambda b: call(b, "x86.tilerelease", ir.VoidType(), []))


def load_tile(b: ir.IRBuilder, tile: int, address: ir.Value, stride: int) -> None:
    values = [I8(tile), b.inttoptr(address, I8.as_pointer()), I64(stride)]
    call(b, "x86.tileloadd64", ir.VoidType(), values)


def store_tile(b: ir.IRBuilder, tile: int, address: ir.Value, stride: int) -> None:
    values = [I8(tile), b.inttoptr(address, I8.as_pointer()), I64(stride)]
    call(b, "x86.tilestored64", ir.VoidType(), values)


def multiply_tiles(b: ir.IRBuilder, out: int, left: int, right: int) -> None:
    """out[16][16] += left · right, in f32; left: bf16[16][32]; right: bf16[16][16][2], its rows by twos."""
    call(b, "x86.tdpbf16ps", ir.VoidType(), [I8(out), I8(left), I8(right)])

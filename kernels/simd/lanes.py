"""Moving lanes: shuffles, tables, transposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from ..layout import WOVEN
from .vectors import (
    ADDRESS,
    I1,
    I8,
    I16,
    I64,
    TARGET,
    Vector,
    call,
    constant,
    f32x16,
    i8x8,
    i8x16,
    i8x64,
    i16x32,
    i32x16,
    loaded,
    operation,
    shuffled,
    splat,
    stored,
)


def cast(kind: Vector) -> Any:
    """An operation that sees a vector's bits as another type of vector."""
    return operation(kind, [None], lambda b, v: b.bitcast(v, kind.llvm))


as_i8, as_i16 = cast(i8x64), cast(i16x32)


def shuffle(result: Vector, lanes: Sequence[int]) -> Any:
    """An operation picking lanes of one vector."""
    return operation(result, [None], lambda b, v: shuffled(b, v, None, lanes))


def shuffle2(result: Vector, lanes: Sequence[int]) -> Any:
    """An operation picking lanes of two vectors of one type, numbered through."""
    return operation(result, [None, None], lambda b, v, w: shuffled(b, v, w, lanes))


join_8x32 = shuffle2(i8x64, range(64))
#: 16-bit lanes of two vectors in turn.
interleave = shuffle2(i8x64, [i // 4 * 2 + i % 2 + 32 * (i // 2 % 2) for i in range(64)])
#: The same 32 bytes in both halves.
twice_8x32 = shuffle(i8x64, [*range(32)] * 2)
#: Two times 16 bytes a, b → a a b b.
twice_8x16 = shuffle2(i8x64, [*range(16)] * 2 + [*range(16, 32)] * 2)


def lanes_i16(values: Sequence[int]) -> Any:
    """An operation without arguments that gives a constant vector of 32 16-bit lanes."""
    return operation(i16x32, [], lambda b: constant(I16, values))


def _int_bytes(lanes: Sequence[int], n_ints: int) -> Any:
    """An operation giving 16 of the bytes of one or two 64-bit integers."""

    def emit(b: ir.IRBuilder, *ints: ir.Value) -> ir.Value:
        parts = [b.bitcast(splat(b, x, 1), i8x8.llvm) for x in ints]
        return shuffled(b, parts[0], parts[-1], lanes)

    return operation(i8x16, [types.int64] * n_ints, emit)


#: For each 16 columns, in woven order: the byte of its 32 columns, of eight; its own byte, of two times eight.
paired_bytes = _int_bytes([i // 2 for i in WOVEN], 1)
sixteen_bytes = _int_bytes(WOVEN, 2)
#: The four lowest bytes of an integer, on the first lanes.
four_bytes = _int_bytes([*range(4)] * 4, 1)


def _woven_nibbles(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    v = b.bitcast(splat(b, x, 1), i8x8.llvm)
    low, high = b.and_(v, constant(I8, [15] * 8)), b.lshr(v, constant(I8, [4] * 8))
    return shuffled(b, low, high, [i // 2 + 8 * (i % 2) for i in WOVEN])


#: The nibbles of a 64-bit integer, in woven order.
woven_nibbles = operation(i8x16, [types.int64], _woven_nibbles)
#: Sixteen numbers into woven order and back.
weave_bytes, weave = shuffle(i8x16, WOVEN), shuffle(f32x16, WOVEN)
#: The bits of an integer as bytes, 0 or 1; of its lowest sixteen.
bits_as_bytes = operation(
    i8x64, [types.int64],
    lambda b, x: b.zext(b.bitcast(splat(b, x, 1), ir.VectorType(I1, 64)), i8x64.llvm),
)  # fmt: skip
sixteen_bits = operation(
    i8x16, [types.int64],
    lambda b, x: b.zext(b.bitcast(splat(b, b.trunc(x, I16), 1), ir.VectorType(I1, 16)), i8x16.llvm),
)  # fmt: skip


def table16(values: Sequence[int], kind: Vector = i8x64) -> Any:
    """An operation mapping each of 64 or 16 bytes (0-15) through a table of 16 bytes."""
    n_lanes = kind.lanes

    def emit(b: ir.IRBuilder, index: ir.Value) -> ir.Value:
        def shuffle_bytes(name: str, lanes: int) -> ir.Value:
            table = constant(I8, [v % 256 for v in values] * (lanes // 16))
            parts = [
                call(b, name, table.type, [table, shuffled(b, index, None, range(i, i + lanes))])
                for i in range(0, n_lanes, lanes)
            ]
            while len(parts) > 1:
                n = 2 * parts[0].type.count
                parts = [shuffled(b, low, high, range(n)) for low, high in zip(parts[::2], parts[1::2], strict=True)]
            return parts[0]

        if TARGET.byte_registers and n_lanes == 16:
            return shuffle_bytes("x86.ssse3.pshuf.b.128", 16)
        if TARGET.byte_registers == 64:
            return shuffle_bytes("x86.avx512.pshuf.b.512", 64)
        if TARGET.byte_registers == 32:
            return shuffle_bytes("x86.avx2.pshuf.b", 32)
        # a chain of selects over the four bits of the index: no table instruction needed
        rows = [constant(I8, [v % 256] * n_lanes) for v in values]
        for bit in range(4):
            own = b.and_(index, constant(I8, [1 << bit] * n_lanes))
            on = b.icmp_unsigned("!=", own, constant(I8, [0] * n_lanes))
            rows = [b.select(on, high, low) for low, high in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    return operation(kind, [kind], emit)


def transposed(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose 16 vectors of 16 lanes: four rounds that each exchange blocks of half the size."""
    for step in (8, 4, 2, 1):
        low = [lane + (16 if lane & step else 0) - (step if lane & step else 0) for lane in range(16)]
        high = [lane + step if not lane & step else lane + 16 for lane in range(16)]
        for i in range(16):
            if not i & step:
                a, c = rows[i], rows[i + step]
                rows[i], rows[i + step] = shuffled(b, a, c, low), shuffled(b, a, c, high)
    return rows


def _transpose(b: ir.IRBuilder, source: ir.Value, stride: ir.Value, out: ir.Value) -> None:
    addresses = [b.add(source, b.mul(stride, I64(i))) for i in range(16)]
    for i, row in enumerate(transposed(b, [loaded(b, address, i32x16.llvm) for address in addresses])):
        stored(b, out, row, 64 * i)


#: transpose(source, stride, out): 16 rows of 16 32-bit lanes, `stride` bytes apart → 16 columns, packed.
transpose = operation(types.void, [ADDRESS, types.int64, ADDRESS], _transpose)

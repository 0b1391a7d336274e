"""Codebooks: points of four or eight columns, looked up in memory by index, and bits spread over columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from .vectors import ADDRESS, I1, I8, I16, I32, I64, TARGET, constant, i8x16, i8x64, loaded, operation, splat


def codebook(name: str, points: np.ndarray, places: Sequence[int], high: Sequence[int] = ()) -> Any:
    """An operation: look_up(address, high) → the 64 bytes of as many points as `places` names.

    points: u8[number, 4 or 8]; places: where, from the address, the low byte of each index lies; high: bits of `high`
    where its other bits begin. Without these the index is in the low bits of the 16 there.
    """
    n_points, size = points.shape
    element, entries = ir.IntType(8 * size), np.ascontiguousarray(points).view(f"<u{size}").reshape(-1).tolist()
    text = ir.Constant(ir.ArrayType(element, n_points), entries)

    def emit(b: ir.IRBuilder, address: ir.Value, more: ir.Value) -> ir.Value:
        table = b.ptrtoint(_table(b.module, name, text), I64)
        out = ir.Constant(ir.VectorType(element, 64 // size), ir.Undefined)
        for i, place in enumerate(places):
            index = _index(b, address, more, place, high[i] if high else None, n_points)
            point = loaded(b, b.add(table, b.mul(index, I64(size))), element)
            out = b.insert_element(out, point, I32(i))
        return b.bitcast(out, i8x64.llvm)

    return operation(i8x64, [ADDRESS, types.int64], emit)


def _index(b: ir.IRBuilder, address: ir.Value, more: ir.Value, place: int, high: int | None, n_points: int) -> ir.Value:
    if n_points == 256:
        return b.zext(loaded(b, address, I8, place), I64)
    if high is None:
        return b.and_(b.zext(loaded(b, address, I16, place), I64), I64(n_points - 1))
    bits = b.shl(more, I64(8 - high)) if high <= 8 else b.lshr(more, I64(high - 8))
    return b.or_(b.zext(loaded(b, address, I8, place), I64), b.and_(bits, I64(n_points - 256)))


def _table(module: ir.Module, name: str, text: ir.Constant) -> ir.GlobalVariable:
    name = f"codebook.{name}"
    if name not in module.globals:
        table = ir.GlobalVariable(module, text.type, name)
        table.initializer, table.linkage, table.global_constant, table.align = text, "internal", True, 64
    return module.globals[name]


def negate_where(sums: int) -> Any:
    """An operation: 64 bytes q and a bit for each → where it is 1, `sums` less q."""

    def emit(b: ir.IRBuilder, q: ir.Value, bits: ir.Value) -> ir.Value:
        chosen, every = b.bitcast(splat(b, bits, 1), ir.VectorType(I1, 64)), constant(I8, [sums % 256] * 64)
        if TARGET.byte_registers == 64:  # with masks
            return b.select(chosen, b.sub(every, q), q)
        mask = b.sext(chosen, i8x64.llvm)  # -q is the complement of q, plus 1
        return b.add(b.xor(q, mask), b.and_(mask, constant(I8, [(sums + 1) % 256] * 64)))

    return operation(i8x64, [i8x64, types.int64], emit)


def _with_parity(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    folded = x
    for n in (4, 2, 1):
        folded = b.xor(folded, b.lshr(folded, I64(n)))
    return b.or_(x, b.shl(b.and_(folded, I64(0x0101010101010101)), I64(7)))


def _eight_sevens(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    for mask, n in ((0x00003FFF00003FFF, 2), (0x007F007F007F007F, 1)):
        above = mask << 7 * n & (1 << 64) - 1
        x = b.or_(b.and_(x, I64(mask)), b.shl(b.and_(x, I64(above)), I64(n)))
    return _with_parity(b, x)


#: Of eight bytes of 7 bits: their eighth bits made such that the number of ones is even.
with_parity = operation(types.int64, [types.int64], _with_parity)
#: The same of twice four fields of 7 bits, each in the low 28 of 32.
eight_sevens = operation(types.int64, [types.int64], _eight_sevens)


def eight_fields(shift: int, n_bits: int) -> Any:
    """An operation: n_bits of each of the eight 16-bit integers at an address, from `shift` on → eight bytes."""

    def emit(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
        v = loaded(b, address, ir.VectorType(I16, 8))
        v = b.and_(b.lshr(v, constant(I16, [shift] * 8)), constant(I16, [2**n_bits - 1] * 8))
        return b.bitcast(b.trunc(v, ir.VectorType(I8, 8)), I64)

    return operation(types.int64, [ADDRESS], emit)


def _nibbles_in_order(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    for n, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F)):
        x = b.and_(b.or_(x, b.shl(x, I64(n))), I64(mask))
    return x


#: The eight nibbles of 32 bits as bytes.
nibbles_in_order = operation(types.int64, [types.int64], _nibbles_in_order)


def _woven_threes(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    v = b.bitcast(splat(b, x, 4), ir.VectorType(I16, 16))
    shifts = constant(I16, [3 * (i // 4) for i in range(16)])
    return b.trunc(b.and_(b.lshr(v, shifts), constant(I16, [7] * 16)), i8x16.llvm)


#: Four times 16 bits, whose low 12 are four numbers of 3 bits → all of them, in woven order.
woven_threes = operation(i8x16, [types.int64], _woven_threes)


def plus_where(bits: Sequence[int], amount: int) -> Any:
    """An operation: 64 bytes q and an integer → plus `amount` in the columns, by eights, whose bits of it are 0."""

    def emit(b: ir.IRBuilder, q: ir.Value, x: ir.Value) -> ir.Value:
        eights = ir.VectorType(I64, 8)
        own = b.and_(splat(b, x, 8), constant(I64, [1 << bit for bit in bits]))
        is_zero = b.icmp_unsigned("==", own, constant(I64, [0] * 8))
        more = b.select(is_zero, constant(I64, [amount * 0x0101010101010101] * 8), ir.Constant(eights, [0] * 8))
        return b.add(q, b.bitcast(more, i8x64.llvm))

    return operation(i8x64, [i8x64, types.int64], emit)


def _quarters(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    wide = ir.VectorType(I32, 16)
    x = b.zext(v, wide)
    for n in (6, 12, 18):
        x = b.or_(x, b.shl(b.zext(v, wide), constant(I32, [n] * 16)))
    return b.and_(b.bitcast(x, i8x64.llvm), constant(I8, [3] * 64))


#: Sixteen bytes → the four fields of 2 bits of each, in order.
quarters = operation(i8x64, [i8x16], _quarters)


def times(factors: Sequence[int]) -> Any:
    """An operation: each of 64 bytes times a constant, modulo 256."""
    return operation(i8x64, [i8x64], lambda b, v: b.mul(v, constant(I8, factors)))


def _thirds(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    out = b.zext(b.icmp_unsigned(">", x, constant(I8, [85] * 64)), i8x64.llvm)
    return b.add(out, b.zext(b.icmp_unsigned(">", x, constant(I8, [170] * 64)), i8x64.llvm))


#: 64 bytes as fractions of 256 → the first digit of each to base 3.
thirds = operation(i8x64, [i8x64], _thirds)

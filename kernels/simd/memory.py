"""Vectors and single numbers from memory and to it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ..layout import LANES
from .vectors import (
    ADDRESS,
    F32,
    I8,
    I16,
    I32,
    I64,
    Vector,
    call,
    constant,
    f32x16,
    i8x16,
    i8x32,
    i8x64,
    i32x16,
    loaded,
    operation,
    splat,
    stored,
)


def _load(kind: Vector) -> Any:
    return operation(kind, [ADDRESS], lambda b, address: loaded(b, address, kind.llvm))


load_f32, load_i32 = _load(f32x16), _load(i32x16)
load_i8x16, load_i8x32, load_i8x64 = _load(i8x16), _load(i8x32), _load(i8x64)


def load_integers(bits: int) -> Any:
    """An operation: sixteen integers at an address, as floats."""
    kind = ir.VectorType(ir.IntType(bits), 16)
    return operation(f32x16, [ADDRESS], lambda b, address: b.sitofp(loaded(b, address, kind), f32x16.llvm))


#: Sixteen doubles, as floats.
load_f64 = operation(
    f32x16, [ADDRESS],
    lambda b, address: b.fptrunc(loaded(b, address, ir.VectorType(ir.DoubleType(), 16)), f32x16.llvm),
)  # fmt: skip
#: store(address, vector)
store = operation(types.void, [ADDRESS, None], stored)


def _scalar_load(result: Any, kind: ir.Type, cast: str = "") -> Any:
    def emit(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
        value = loaded(b, address, kind)
        return getattr(b, cast)(value, I64) if cast else value

    return operation(result, [ADDRESS], emit)


#: One number from memory; the integers come widened to 64 bits.
get_i64 = _scalar_load(types.int64, I64)
get_i32 = _scalar_load(types.int64, I32, "sext")
get_u32 = _scalar_load(types.int64, I32, "zext")
get_u16 = _scalar_load(types.int64, I16, "zext")
get_u8 = _scalar_load(types.int64, I8, "zext")
get_f32 = _scalar_load(types.float32, F32)
put_f32 = operation(types.void, [ADDRESS, types.float32], stored)
put_i32 = operation(types.void, [ADDRESS, types.int64], lambda b, p, v: stored(b, p, b.trunc(v, I32)))
put_i64 = operation(types.void, [ADDRESS, types.int64], stored)
put_f64 = operation(types.void, [ADDRESS, types.float64], stored)
put_i8 = operation(types.void, [ADDRESS, types.int64], lambda b, p, v: stored(b, p, b.trunc(v, I8)))


def _scatter(b: ir.IRBuilder, address: ir.Value, v: ir.Value) -> None:
    four_bytes = v.type.element == I8
    values = b.bitcast(v, ir.VectorType(I32, v.type.count // 4)) if four_bytes else v
    for i in range(values.type.count):
        stored(b, address, b.extract_element(values, I32(i)), 4 * LANES * i)


#: scatter(address, vector): each 32 bits of it into a line of their own, LANES × 4 bytes apart.
scatter = operation(types.void, [ADDRESS, None], _scatter)


def _prefetch(locality: int) -> Any:
    def emit(b: ir.IRBuilder, address: ir.Value) -> None:
        values = [b.inttoptr(address, I8.as_pointer()), I32(0), I32(locality), I32(1)]
        call(b, "prefetch.p0", ir.VoidType(), values)

    return operation(types.void, [ADDRESS], emit)


#: prefetch(address): have this cache line ready soon; any address will do. The second: in the second cache only.
prefetch, prefetch_later = _prefetch(3), _prefetch(2)


def _first(b: ir.IRBuilder, n: ir.Value) -> ir.Value:
    """A mask of the lanes below n."""
    limit = b.trunc(b.select(b.icmp_signed("<", n, I64(16)), n, I64(16)), I32)
    return b.icmp_signed("<", constant(I32, range(16)), splat(b, limit, 16))


def _load_first(b: ir.IRBuilder, address: ir.Value, n: ir.Value) -> ir.Value:
    pointer = b.inttoptr(address, F32.as_pointer())
    values = [pointer, I32(4), _first(b, n), constant(F32, [0.0] * 16)]
    return call(b, "masked.load.v16f32.p0", f32x16.llvm, values)


def _store_first(b: ir.IRBuilder, address: ir.Value, v: ir.Value, n: ir.Value) -> None:
    pointer = b.inttoptr(address, F32.as_pointer())
    call(b, "masked.store.v16f32.p0", ir.VoidType(), [v, pointer, I32(4), _first(b, n)])


#: load_first(address, n): 16 floats of which only the first n are read, zeros for the rest.
load_first = operation(f32x16, [ADDRESS, types.int64], _load_first)
#: store_first(address, vector, n): stores the first n lanes only.
store_first = operation(types.void, [ADDRESS, f32x16, types.int64], _store_first)
#: first_lanes(vector, n, other): lanes below n from the vector, `other` in the rest; last_lanes: the reverse.
first_lanes, last_lanes = (
    operation(f32x16, [f32x16, types.int64, types.float32], emit)
    for emit in (
        lambda b, v, n, other: b.select(_first(b, n), v, splat(b, other, 16)),
        lambda b, v, n, other: b.select(_first(b, n), splat(b, other, 16), v),
    )
)

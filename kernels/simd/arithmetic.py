"""Arithmetic on lanes, and from one type of number to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from .vectors import (
    ADDRESS,
    F32,
    I1,
    I8,
    I16,
    I32,
    I64,
    TARGET,
    call,
    constant,
    f32x16,
    i8x16,
    i8x64,
    i16x32,
    i32x16,
    operation,
    splat,
    stored,
    suffix,
)


def multiply_add(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x·y + z of vectors of floats."""
    return call(b, f"fmuladd.v{x.type.count}f32", x.type, [x, y, z])


def _lanewise(name: str, n_values: int) -> Any:
    def emit(b: ir.IRBuilder, *values: ir.Value) -> ir.Value:
        return call(b, f"{name}.{suffix(values[0].type)}", values[0].type, values)

    return operation(None, [None] * n_values, emit)


fma = _lanewise("fmuladd", 3)
maximum, minimum = _lanewise("maxnum", 2), _lanewise("minnum", 2)
absolute, nearest, sqrt = (_lanewise(name, 1) for name in ("fabs", "rint", "sqrt"))

negative = operation(f32x16, [f32x16], lambda b, v: b.fneg(v))
splat_f32 = operation(f32x16, [types.float32], lambda b, x: splat(b, x, 16))
#: 0, 1, … 15
lane_numbers = operation(f32x16, [], lambda b: constant(F32, range(16)))
splat_i32 = operation(i32x16, [types.int64], lambda b, x: splat(b, b.trunc(x, I32), 16))
splat_i16 = operation(i16x32, [types.int64], lambda b, x: splat(b, b.trunc(x, I16), 32))
splat_i8 = operation(i8x64, [types.int64], lambda b, x: splat(b, b.trunc(x, I8), 64))
to_f32 = operation(f32x16, [i32x16], lambda b, v: b.sitofp(v, f32x16.llvm))
to_i32 = operation(i32x16, [f32x16], lambda b, v: b.fptosi(v, i32x16.llvm))
splat_i8x16 = operation(i8x16, [types.int64], lambda b, x: splat(b, b.trunc(x, I8), 16))
shift_right_i8x16 = operation(i8x16, [i8x16, types.int64], lambda b, v, n: b.lshr(v, splat(b, b.trunc(n, I8), 16)))
shift_left_i8x16 = operation(i8x16, [i8x16, types.int64], lambda b, v, n: b.shl(v, splat(b, b.trunc(n, I8), 16)))
narrow_i8 = operation(i8x16, [i32x16], lambda b, v: b.trunc(v, i8x16.llvm))
#: Sixteen bytes as floats, unsigned and signed.
bytes_to_f32 = operation(f32x16, [i8x16], lambda b, v: b.uitofp(v, f32x16.llvm))
signed_to_f32 = operation(f32x16, [i8x16], lambda b, v: b.sitofp(v, f32x16.llvm))


def _division(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.fdiv(x, y)


divide = operation(f32x16, [f32x16, f32x16], _division)


def _reduce(name: str, start: float | None) -> Any:
    def emit(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        values = [v] if start is None else [F32(start), v]
        result = call(b, f"vector.reduce.{name}.v16f32", F32, values)
        result.fastmath.add("reassoc")  # a tree of additions, not a chain
        return result

    return operation(types.float32, [f32x16], emit)


reduce_add = _reduce("fadd", -0.0)
reduce_max, reduce_min = _reduce("fmax", None), _reduce("fmin", None)


def _put_sum(b: ir.IRBuilder, address: ir.Value, v: ir.Value) -> None:
    stored(b, address, call(b, "vector.reduce.add.v16i32", I32, [v]))


#: put_sum(address, vector): the sum of its lanes, 32 bits.
put_sum = operation(types.void, [ADDRESS, i32x16], _put_sum)


def _exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """e^x to about a unit in the last place, 0 below -87: x = n ln 2 + r, |r| <= ln 2 / 2, e^r as its Taylor series."""

    def every(value: float) -> ir.Constant:
        return constant(F32, [value] * 16)

    given = x
    x = call(b, "maxnum.v16f32", x.type, [x, every(-87.0)])
    x = call(b, "minnum.v16f32", x.type, [x, every(88.0)])
    n = call(b, "rint.v16f32", x.type, [b.fmul(x, every(1.4426950408889634))])
    r = multiply_add(b, n, every(-0.693145751953125), x)  # ln 2 in two parts, the first one exact
    r = multiply_add(b, n, every(-1.428606765330187e-06), r)
    p = every(1 / 5040)
    for c in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        p = multiply_add(b, p, r, every(c))
    bits = b.shl(b.fptosi(n, i32x16.llvm), constant(I32, [23] * 16))
    result = b.bitcast(b.add(b.bitcast(p, i32x16.llvm), bits), f32x16.llvm)
    return b.select(b.fcmp_ordered("<", given, every(-87.0)), every(0.0), result)


def _exp2(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2^x to about a unit in the last place, 0 below -126, for finite x <= 126: x = n + r, 2^r as a Taylor series."""
    n = call(b, "rint.v16f32", x.type, [x])
    r, coefficients = b.fsub(x, n), [math.log(2) ** k / math.factorial(k) for k in range(7)]
    p = constant(F32, [coefficients.pop()] * 16)
    for c in reversed(coefficients):
        p = multiply_add(b, p, r, constant(F32, [c] * 16))
    if TARGET.scales:
        every, nearest_even = ir.Constant(I16, -1), I32(4)
        return call(b, "x86.avx512.mask.scalef.ps.512", x.type, [p, n, p, every, nearest_even])
    bits = b.shl(b.fptosi(n, i32x16.llvm), constant(I32, [23] * 16))
    result = b.bitcast(b.add(b.bitcast(p, i32x16.llvm), bits), f32x16.llvm)
    return b.select(b.fcmp_ordered("<", x, constant(F32, [-126.0] * 16)), constant(F32, [0.0] * 16), result)


def _log(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """ln x to about a unit in the last place, for normal x > 0: x = 2^n·m, m in [√½, √2), by ln m = 2·artanh(z)."""

    def every(value: float) -> ir.Constant:
        return constant(F32, [value] * 16)

    bits = b.bitcast(x, i32x16.llvm)
    root_half = constant(I32, [0x3F3504F3] * 16)
    n = b.ashr(b.sub(bits, root_half), constant(I32, [23] * 16))
    m = b.bitcast(b.sub(bits, b.shl(n, constant(I32, [23] * 16))), f32x16.llvm)
    n = b.sitofp(n, f32x16.llvm)
    z = b.fdiv(b.fsub(m, every(1.0)), b.fadd(m, every(1.0)))
    square = b.fmul(z, z)
    p = every(2 / 11)
    for c in (2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0):
        p = multiply_add(b, p, square, every(c))
    low = multiply_add(b, n, every(-1.904654299957767e-09), b.fmul(p, z))  # ln 2 in two parts
    return multiply_add(b, n, every(0.69314718246459961), low)


def _any_above(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.icmp_unsigned("!=", b.bitcast(b.fcmp_ordered(">", x, y), I16), I16(0))


exp, exp2, log = (operation(f32x16, [f32x16], emit) for emit in (_exp, _exp2, _log))
#: Whether some lane of the first vector is larger than that of the second.
any_above = operation(types.boolean, [f32x16, f32x16], _any_above)
#: A bit for each lane: whether it is larger in the first vector than in the second, or is no number in one.
above = operation(
    types.int64, [f32x16, f32x16],
    lambda b, x, y: b.zext(b.bitcast(b.fcmp_unordered(">", x, y), I16), I64),
)  # fmt: skip
#: count_from(counts, vector, least): counts, one higher in lanes of the vector that are at least so large.
count_from = operation(
    i32x16, [i32x16, i32x16, i32x16],
    lambda b, counts, v, least: b.add(counts, b.zext(b.icmp_signed(">=", v, least), i32x16.llvm)),
)  # fmt: skip
#: The number of the lowest bit that is 1.
lowest_bit = operation(types.int64, [types.int64], lambda b, x: call(b, "cttz.i64", I64, [x, I1(1)]))


def rank_among(bounds: Sequence[float]) -> Any:
    """An operation: of each lane of a vector of floats, how many of these numbers it is not below, as integers."""

    def emit(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        rank = constant(I32, [0] * 16)
        for bound in bounds:
            rank = b.add(rank, b.zext(b.fcmp_ordered(">=", v, constant(F32, [bound] * 16)), i32x16.llvm))
        return rank

    return operation(i32x16, [f32x16], emit)


def _have_bit(b: ir.IRBuilder, v: ir.Value, bit: ir.Value) -> ir.Value:
    own = b.and_(v, splat(b, b.shl(I32(1), b.trunc(bit, I32)), 16))
    return b.zext(b.bitcast(b.icmp_unsigned("!=", own, constant(I32, [0] * 16)), I16), I64)


#: have_bit(vector, n): a bit for each lane, whether the lane's bit n is 1.
have_bit = operation(types.int64, [i32x16, types.int64], _have_bit)

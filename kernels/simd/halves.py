"""Half precision, f16 and bf16: in hardware where there is any, else with integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from .vectors import (
    ADDRESS,
    BF16,
    F16,
    F32,
    I8,
    I16,
    I32,
    TARGET,
    call,
    constant,
    f32x16,
    i8x16,
    i8x32,
    i8x64,
    i16x16,
    loaded,
    operation,
    shuffled,
    splat,
    stored,
)


def _every(lanes: int) -> Callable[[int], ir.Constant]:
    """every(value): an integer on all lanes."""
    return lambda value: constant(I32, [value] * lanes)


def _half_to_float(b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """f16 bits (i16 vector) → f32. Without hardware: shift into place, rescale by 2^112."""
    lanes = bits.type.count
    if TARGET.half:
        return b.fpext(b.bitcast(bits, ir.VectorType(F16, lanes)), ir.VectorType(F32, lanes))

    every, floats = _every(lanes), ir.VectorType(F32, lanes)
    wide = b.zext(bits, ir.VectorType(I32, lanes))
    sign = b.shl(b.and_(wide, every(0x8000)), every(16))
    magnitude = b.and_(wide, every(0x7FFF))
    scaled = b.fmul(b.bitcast(b.shl(magnitude, every(13)), floats), constant(F32, [2.0**112] * lanes))
    is_special = b.icmp_unsigned(">=", magnitude, every(0x7C00))  # infinity and NaN keep a full exponent
    special = b.or_(b.shl(magnitude, every(13)), every(0x7F800000))
    chosen = b.select(is_special, special, b.bitcast(scaled, special.type))
    return b.bitcast(b.or_(chosen, sign), floats)


def _float_to_half(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """f32 → f16 bits (i16 vector), to nearest even; beyond the range of f16, infinity."""
    lanes = value.type.count
    if TARGET.half:
        return b.bitcast(b.fptrunc(value, ir.VectorType(F16, lanes)), ir.VectorType(I16, lanes))

    every, ints, floats = _every(lanes), ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)
    bits = b.bitcast(value, ints)
    sign = b.lshr(b.and_(bits, every(0x80000000)), every(16))
    magnitude = b.and_(bits, every(0x7FFFFFFF))
    # normal numbers: rebias the exponent, round half to even on the 13 bits that go
    odd = b.and_(b.lshr(magnitude, every(13)), every(1))
    normal = b.lshr(b.add(magnitude, b.add(every((0xFFF - (112 << 23)) & 0xFFFFFFFF), odd)), every(13))
    # subnormal ones: adding 0.5 lets the float unit round at the right bit
    half = constant(F32, [0.5] * lanes)
    small = b.sub(b.bitcast(b.fadd(b.bitcast(magnitude, floats), half), ints), every(0x3F000000))
    chosen = b.select(b.icmp_unsigned("<", magnitude, every(113 << 23)), small, normal)
    chosen = b.select(b.icmp_unsigned(">=", magnitude, every(0x477FF000)), every(0x7C00), chosen)
    chosen = b.select(b.icmp_unsigned(">", magnitude, every(0x7F800000)), every(0x7E00), chosen)
    return b.trunc(b.or_(chosen, sign), ir.VectorType(I16, lanes))


def _bf16_to_float(b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    wide = ir.VectorType(I32, bits.type.count)
    return b.bitcast(b.shl(b.zext(bits, wide), ir.Constant(wide, [16] * bits.type.count)), f32x16.llvm)


def half_at(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return b.extract_element(_half_to_float(b, loaded(b, address, ir.VectorType(I16, 1))), I32(0))


def _to_bfloat(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    return b.bitcast(b.fptrunc(v, ir.VectorType(BF16, 16)), i8x32.llvm)


#: Sixteen floats as bf16, to nearest even.
to_bfloat = operation(i8x32, [f32x16], _to_bfloat)


def _two_to_bfloats(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    kind = ir.VectorType(BF16, 32)
    return b.bitcast(call(b, "x86.avx512bf16.cvtne2ps2bf16.512", kind, [high, low]), i8x64.llvm)


def _looked_up_bfloats(b: ir.IRBuilder, address: ir.Value, table: ir.Value, first: ir.Value) -> ir.Value:
    words = ir.VectorType(I16, 32)
    places = b.add(b.zext(loaded(b, address, ir.VectorType(I8, 32)), words), splat(b, b.trunc(first, I16), 32))
    found = call(b, "x86.avx512.permvar.hi.512", words, [b.bitcast(table, words), places])
    return b.bitcast(found, i8x64.llvm)


#: two_to_bfloats(low, high): 32 floats as bf16. look_up_bfloats(address, table, first): of 32 of them those that the 32
#: bytes at an address count from `first` on. Both where the CPU has AVX-512's instructions for bf16.
two_to_bfloats = operation(i8x64, [f32x16, f32x16], _two_to_bfloats)
look_up_bfloats = operation(i8x64, [ADDRESS, i8x64, types.int64], _looked_up_bfloats)
#: 0, 1, … 15.
numbers_f32 = operation(f32x16, [], lambda b: constant(F32, [float(i) for i in range(16)]))
load_f16 = operation(f32x16, [ADDRESS], lambda b, p: _half_to_float(b, loaded(b, p, i16x16.llvm)))
load_bf16 = operation(f32x16, [ADDRESS], lambda b, p: _bf16_to_float(b, loaded(b, p, i16x16.llvm)))
store_f16 = operation(types.void, [ADDRESS, f32x16], lambda b, p, v: stored(b, p, _float_to_half(b, v)))
get_f16 = operation(types.float32, [ADDRESS], half_at)
put_f16 = operation(
    types.void, [ADDRESS, types.float32], lambda b, p, v: stored(b, p, _float_to_half(b, splat(b, v, 1)))
)


def _bfloat_bits(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    """f32 → bf16 bits (i16 vector), to nearest even, without the instruction for that."""
    lanes = v.type.count
    every, bits = _every(lanes), b.bitcast(v, ir.VectorType(I32, lanes))
    odd = b.and_(b.lshr(bits, every(16)), every(1))
    rounded = b.add(b.add(bits, every(0x7FFF)), odd)
    is_nan = b.fcmp_unordered("uno", v, v)
    return b.trunc(b.lshr(b.select(is_nan, b.or_(bits, every(1 << 22)), rounded), every(16)), ir.VectorType(I16, lanes))


store_bf16 = operation(types.void, [ADDRESS, f32x16], lambda b, p, v: stored(b, p, _bfloat_bits(b, v)))
put_bf16 = operation(
    types.void, [ADDRESS, types.float32], lambda b, p, v: stored(b, p, _bfloat_bits(b, splat(b, v, 1)))
)
#: The half that an integer's low 16 bits are.
half_of = operation(
    types.float32, [types.int64],
    lambda b, x: b.extract_element(_half_to_float(b, splat(b, b.trunc(x, I16), 1)), I32(0)),
)  # fmt: skip


def _from_e4m3(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    bits = b.shl(b.zext(b.and_(v, constant(I8, [0x7F] * 16)), i16x16.llvm), constant(I16, [7] * 16))
    values = b.fmul(_half_to_float(b, bits), constant(F32, [2.0**8] * 16))  # as a half, with its exponent less 8
    return b.select(b.icmp_unsigned("==", v, constant(I8, [0x7F] * 16)), constant(F32, [0.0] * 16), values)


def _from_half_e8m0(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    wide, every = b.zext(v, ir.VectorType(I32, 16)), _every(16)
    subnormal, normal = b.shl(b.add(wide, every(1)), every(21)), b.shl(b.sub(wide, every(1)), every(23))
    return b.bitcast(b.select(b.icmp_unsigned("<", wide, every(2)), subnormal, normal), f32x16.llvm)


#: Sixteen bytes as the floats of 8 bits that they are: without a sign, 4 bits of exponent and 3 of mantissa, 0x7F being
#: 0; powers of two (OCP Microscaling Formats, 1.0), halved.
from_e4m3, from_half_e8m0 = (operation(f32x16, [i8x16], emit) for emit in (_from_e4m3, _from_half_e8m0))


def _spread_halves(n: int) -> Any:
    """An operation: n halves from each of two addresses → n vectors: its first on lanes 0 and 1, second on 2 and 3."""

    def emit(b: ir.IRBuilder, p: ir.Value, q: ir.Value) -> ir.Value:
        first, second = (loaded(b, at, ir.VectorType(I16, n)) for at in (p, q))
        both = shuffled(b, first, second, range(2 * n))
        values, none = _half_to_float(b, both), constant(F32, [0.0] * 2 * n)
        lanes = [shuffled(b, values, none, [i, i, n + i, n + i, *[2 * n] * 12]) for i in range(n)]
        if n == 1:
            return lanes[0]
        out = ir.Constant(ir.ArrayType(f32x16.llvm, n), ir.Undefined)
        for i, value in enumerate(lanes):
            out = b.insert_value(out, value, i)
        return out

    return operation(f32x16 if n == 1 else types.UniTuple(f32x16, n), [ADDRESS, ADDRESS], emit)


#: The half at each of two addresses, and two of them, as floats: on lanes 0 and 1 and lanes 2 and 3; zeros beyond.
two_halves, two_pairs_of_halves = _spread_halves(1), _spread_halves(2)
_EVEN_ODD = (0, 2, 4, 6, 1, 3, 5, 7)  # eight blocks of 32 columns, as their groups of 16 come in woven order


def halves_of_eight(stride: int) -> Any:
    """An operation: a half in each of eight blocks, `stride` bytes apart → as floats, in woven order."""

    def emit(b: ir.IRBuilder, p: ir.Value) -> ir.Value:
        halves = ir.Constant(ir.VectorType(I16, 8), ir.Undefined)
        for i, block in enumerate(_EVEN_ODD):
            halves = b.insert_element(halves, loaded(b, p, I16, stride * block), I32(i))
        return shuffled(b, _half_to_float(b, halves), None, [i % 4 + i // 8 * 4 for i in range(16)])

    return operation(f32x16, [ADDRESS], emit)


def scales_of(n: int, stride: int) -> Any:
    """An operation: a half in each of n blocks, 2 or 4, `stride` bytes apart, that make up 256 columns, woven."""

    def emit(b: ir.IRBuilder, p: ir.Value) -> ir.Value:
        halves = ir.Constant(ir.VectorType(I16, n), ir.Undefined)
        for i in range(n):
            halves = b.insert_element(halves, loaded(b, p, I16, stride * i), I32(i))
        return shuffled(b, _half_to_float(b, halves), None, [i % 4 * n // 4 for i in range(16)])

    return operation(f32x16, [ADDRESS], emit)


def pairs_of_eight(stride: int) -> Any:
    """The same of two halves side by side: two vectors."""

    def emit(b: ir.IRBuilder, p: ir.Value) -> ir.Value:
        pairs = ir.Constant(ir.VectorType(I32, 8), ir.Undefined)
        for i, block in enumerate(_EVEN_ODD):
            pairs = b.insert_element(pairs, loaded(b, p, I32, stride * block), I32(i))
        values = _half_to_float(b, b.bitcast(pairs, i16x16.llvm))
        out = ir.Constant(ir.ArrayType(f32x16.llvm, 2), ir.Undefined)
        for which in range(2):
            lanes = [2 * (i % 4 + i // 8 * 4) + which for i in range(16)]
            out = b.insert_value(out, shuffled(b, values, None, lanes), which)
        return out

    return operation(types.UniTuple(f32x16, 2), [ADDRESS], emit)

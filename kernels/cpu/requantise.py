"""Weights of less than 8 bits, rounded to bytes that share one scale over 256 columns, for large batches.

Scales of 16 or 32 columns cost a multiplication for each of them and token: a fifth to a third of the time of a
product. Rounding adds an error of 0.7 % of a weight's usual size (half a step of 127 over the largest of 256), where
4-bit types themselves have one of 7 %, and the bytes of activations one of 0.5 %.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..simd import (
    F32,
    I16,
    I32,
    absolute,
    constant,
    divide,
    i8x64,
    inline,
    load_f32,
    maximum,
    splat,
    splat_f32,
    store,
    transpose,
)

OFFSET = 128  # of the bytes that come out


def bound(largest: int) -> Any:
    """bound(scales, least) → f32x16: in each group no weight scale·q - least, q <= largest, is larger, by size."""
    most = float(largest)

    @inline
    def of_groups(scales, least):
        return maximum(absolute(scales * splat_f32(most) - least), absolute(least))

    return of_groups


@inline
def common_scales(bounds, inverses, scales):
    """The scale of each of 16 rows that makes its largest weight 127, and its inverse.

    bounds: address of f32[16 rows][16 groups], which is overwritten; inverses, scales: of f32[16 rows].
    """
    transpose(bounds, 64, bounds)
    largest = splat_f32(1e-30)
    for i in range(16):
        largest = maximum(largest, load_f32(bounds + 64 * i))
    store(inverses, divide(splat_f32(127.0), largest))
    store(scales, largest * splat_f32(1.0 / 127.0))


def round_unit(bits: int) -> Any:
    """round(q, scales, least, inverse) → four vectors of bytes: weights scale·q - least as (byte - OFFSET) / inverse.

    q: four vectors; scales, least: f32x16 in woven order. Works on 16 bits: q and its scale as fractions whose product
    has 5 bits below the point, of which rounding takes the nearest integer.
    """
    shorts, ints = ir.VectorType(I16, 16), ir.VectorType(I32, 16)

    @intrinsic
    def round_to_bytes(context, q, scales, least, inverse):
        def codegen(context, b, sig, args):
            q, scales, least, inverse = args

            def fixed(values: ir.Value, factor: float, plus: float) -> ir.Value:
                factors = b.fmul(splat(b, inverse, 16), constant(F32, [factor] * 16))
                scaled = b.fadd(b.fmul(values, factors), constant(F32, [plus] * 16))
                return b.trunc(b.fptosi(scaled, ints), shorts)

            factors, below = fixed(scales, 2.0 ** (bits + 6), 0.0), fixed(least, -32.0, 32.0 * OFFSET + 16.5)
            out = ir.Constant(ir.ArrayType(i8x64.llvm, 4), ir.Undefined)
            for j in range(4):
                lanes = constant(I32, [i // 8 * 4 + j for i in range(32)])  # a group's 16 bytes are 8 lanes
                factor, low = (b.shuffle_vector(v, ir.Constant(shorts, ir.Undefined), lanes) for v in (factors, below))
                both = b.bitcast(b.extract_value(q, j), factor.type)
                even, odd = b.and_(both, constant(I16, [255] * 32)), b.lshr(both, constant(I16, [8] * 32))
                even, odd = (_rounded(b, v, factor, low, bits) for v in (even, odd))
                value = b.bitcast(b.or_(even, b.shl(odd, constant(I16, [8] * 32))), i8x64.llvm)
                out = b.insert_value(out, value, j)
            return out

        return types.UniTuple(i8x64, 4)(q, scales, least, inverse), codegen

    return round_to_bytes


def _rounded(b: ir.IRBuilder, q: ir.Value, factor: ir.Value, low: ir.Value, bits: int) -> ir.Value:
    shifted, wide = b.shl(q, constant(I16, [15 - bits] * 32)), ir.VectorType(I32, 32)
    product = b.mul(b.sext(shifted, wide), b.sext(factor, wide))  # LLVM knows this as the high half of a product
    high = b.trunc(b.lshr(product, constant(I32, [16] * 32)), q.type)
    return b.lshr(b.add(high, low), constant(I16, [5] * 32))

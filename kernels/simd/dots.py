"""Dot products: of bytes into 32-bit integers, of pairs of bf16 into floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .vectors import BF16, I8, I16, I32, TARGET, call_other, constant, shuffled


def dot4(b: ir.IRBuilder, acc: ir.Value, q: ir.Value, a: ir.Value, bits: int) -> ir.Value:
    """acc + the sums over four neighbours of q[u8]·a[i8]; acc: i32x16 or i32x8. q has `bits` bits, |a| <= 127."""
    lanes = acc.type.count
    if TARGET.dot == "vpdpbusd" or (TARGET.dot == "avxvnni" and lanes == 8):
        return _vpdpbusd(b, f"x86.avx512.vpdpbusd.{32 * lanes}", acc, q, a)
    if TARGET.dot == "maddubs512" and lanes == 16:
        return b.add(acc, _maddubs(b, q, a, bits, "x86.avx512.pmaddubs.w.512", "x86.avx512.pmaddw.d.512"))
    if TARGET.dot.startswith("maddubs") and lanes == 8:
        return b.add(acc, _maddubs(b, q, a, bits, "x86.avx2.pmadd.ub.sw", "x86.avx2.pmadd.wd"))
    if TARGET.dot.endswith("sdot"):
        return _quarters(b, lambda c, w, x: _sdot(b, c, w, x, bits), acc, q, a)
    if TARGET.dot in ("avxvnni", "maddubs256"):
        return _halves(b, lambda c, w, x: dot4(b, c, w, x, bits), acc, q, a)
    wide = ir.VectorType(I32, 4 * lanes)
    product = b.mul(b.zext(q, wide), b.sext(a, wide))
    for i in range(4):
        acc = b.add(acc, shuffled(b, product, None, range(i, 4 * lanes, 4)))
    return acc


def _vpdpbusd(b: ir.IRBuilder, name: str, acc: ir.Value, q: ir.Value, a: ir.Value) -> ir.Value:
    import llvmlite.binding as llvm

    if llvm.llvm_version_info[0] < 22:  # before, the operands were vectors of 32-bit lanes
        q, a = b.bitcast(q, acc.type), b.bitcast(a, acc.type)
    return call_other(b, name, acc.type, [acc, q, a])


def _sdot(b: ir.IRBuilder, acc: ir.Value, q: ir.Value, a: ir.Value, bits: int) -> ir.Value:
    """dot4 on 128 bits of Arm's: bytes of q with a sign and without, or all with one."""
    if TARGET.dot == "usdot":
        return call_other(b, "aarch64.neon.usdot.v4i32.v16i8", acc.type, [acc, q, a])

    def sdot(acc: ir.Value, w: ir.Value) -> ir.Value:
        return call_other(b, "aarch64.neon.sdot.v4i32.v16i8", acc.type, [acc, w, a])

    if bits < 8:
        return sdot(acc, q)
    # q = (q - 128) + 2·64
    middle = constant(I8, [64] * 16)
    return sdot(sdot(sdot(acc, b.xor(q, constant(I8, [128] * 16))), middle), middle)


def _parts(n: int) -> Any:
    def apply(b: ir.IRBuilder, operation: Callable[..., ir.Value], *values: ir.Value) -> ir.Value:
        size, parts = [v.type.count // n for v in values], []
        for i in range(n):
            cut = [shuffled(b, v, None, range(i * s, i * s + s)) for v, s in zip(values, size, strict=True)]
            parts.append(operation(*cut))
        while len(parts) > 1:
            lanes = range(2 * parts[0].type.count)
            parts = [shuffled(b, low, high, lanes) for low, high in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return apply


#: Apply an operation to each half of vectors.
_halves = _parts(2)


def _quarters(b: ir.IRBuilder, operation: Callable[..., ir.Value], *values: ir.Value) -> ir.Value:
    """Apply an operation on 128 bits to all of 512, or of 256."""
    return _parts(values[0].type.count // 4)(b, operation, *values)


def _maddubs(b: ir.IRBuilder, q: ir.Value, a: ir.Value, bits: int, pairs: str, fours: str) -> ir.Value:
    """By way of 16-bit sums of two products, which must not overflow: 2·127·127 fits, 2·255·127 does not.

    So an 8-bit q is taken as (q - 128) + 128: |q - 128|·(±a) and 128·a each fit.
    """
    shorts, ints = ir.VectorType(I16, q.type.count // 2), ir.VectorType(I32, q.type.count // 4)

    def sums(q: ir.Value, a: ir.Value) -> ir.Value:
        of_two = call_other(b, pairs, shorts, [q, a])
        return call_other(b, fours, ints, [of_two, ir.Constant(shorts, [1] * shorts.count)])

    if bits < 8:
        return sums(q, a)
    zero, middle = ir.Constant(q.type, [0] * q.type.count), ir.Constant(q.type, [128] * q.type.count)
    below = b.icmp_unsigned("<", q, middle)
    size = b.select(below, b.sub(middle, q), b.sub(q, middle))
    return b.add(sums(size, b.select(below, b.sub(zero, a), a)), sums(middle, a))


def dot2(b: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """acc[f32] + the sums over two neighbours of x·y, vectors of 32 bits that each hold two bf16."""
    lanes = acc.type.count
    pairs = ir.VectorType(BF16, 2 * lanes)
    values = [acc, b.bitcast(x, pairs), b.bitcast(y, pairs)]
    return call_other(b, f"x86.avx512bf16.dpbf16ps.{32 * lanes}", acc.type, values)

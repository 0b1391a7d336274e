"""Dot products: of bytes into 32-bit integers, of pairs of bf16 into floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .vectors import BF16, I8, I16, I32, TARGET, call, constant, shuffled


class Dots:
    """Sums over four neighbours of (q[u8] - taken_off)·a[i8] in 32-bit lanes, which grow as they are emitted.

    q has `bits` bits, |a| <= 127. Without an instruction for such sums, products are first added up by twos and in 16
    bits, as many as surely fit.
    """

    def __init__(self, b: ir.IRBuilder, start: ir.Value, bits: int) -> None:
        self._b, self._total, self._bits = b, start, bits
        self._pairs: ir.Value | None = None
        self._n_pairs, self._n_fit = 0, 1 if bits == 8 else 32767 // (2 * 127 * (2**bits - 1))

    def add(self, q: ir.Value, a: ir.Value) -> None:
        b = self._b
        if not TARGET.dot.startswith("maddubs"):
            self._total = _dot4(b, self._total, q, a, self._bits)
            return
        if self._bits == 8:
            q, a = _sizes(b, q, a)
        pairs = _native(b, "x86.avx2.pmadd.ub.sw", "x86.avx512.pmaddubs.w.512", I16, q, a)
        self._pairs = pairs if self._pairs is None else b.add(self._pairs, pairs)
        self._n_pairs += 1
        if self._n_pairs == self._n_fit:
            self.total()

    def total(self) -> ir.Value:
        if self._pairs is not None:
            ones = constant(I16, [1] * self._pairs.type.count)
            fours = _native(self._b, "x86.avx2.pmadd.wd", "x86.avx512.pmaddw.d.512", I32, self._pairs, ones)
            self._total = self._b.add(self._total, fours)
            self._pairs, self._n_pairs = None, 0
        return self._total


def taken_off(bits: int) -> int:
    """What Dots takes off q: where the CPU multiplies only bytes with a sign, or smaller ones, 128 off those of 8."""
    return 128 if bits == 8 and TARGET.dot in ("maddubs512", "maddubs256", "sdot") else 0


def _dot4(b: ir.IRBuilder, acc: ir.Value, q: ir.Value, a: ir.Value, bits: int) -> ir.Value:
    lanes = acc.type.count
    if TARGET.dot == "vpdpbusd" or (TARGET.dot == "avxvnni" and lanes == 8):
        return _vpdpbusd(b, f"x86.avx512.vpdpbusd.{32 * lanes}", acc, q, a)
    if TARGET.dot == "avxvnni":
        return _halves(b, lambda c, w, x: _dot4(b, c, w, x, bits), acc, q, a)
    if TARGET.dot == "usdot":
        return _quarters(b, lambda *v: call(b, "aarch64.neon.usdot.v4i32.v16i8", v[0].type, v), acc, q, a)
    if TARGET.dot == "sdot":
        signed = b.xor(q, constant(I8, [128] * q.type.count)) if bits == 8 else q
        return _quarters(b, lambda *v: call(b, "aarch64.neon.sdot.v4i32.v16i8", v[0].type, v), acc, signed, a)
    wide = ir.VectorType(I32, 4 * lanes)
    product = b.mul(b.zext(q, wide), b.sext(a, wide))
    for i in range(4):
        acc = b.add(acc, shuffled(b, product, None, range(i, 4 * lanes, 4)))
    return acc


def _vpdpbusd(b: ir.IRBuilder, name: str, acc: ir.Value, q: ir.Value, a: ir.Value) -> ir.Value:
    import llvmlite.binding as llvm

    if llvm.llvm_version_info[0] < 22:  # before, the operands were vectors of 32-bit lanes
        q, a = b.bitcast(q, acc.type), b.bitcast(a, acc.type)
    return call(b, name, acc.type, [acc, q, a])


def _sizes(b: ir.IRBuilder, q: ir.Value, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(|q - 128|, a with the sign of q - 128): two products of them fit 16 bits, those of q and a would not."""
    signed, zero = b.xor(q, constant(I8, [128] * q.type.count)), constant(I8, [0] * q.type.count)
    below = b.icmp_signed("<", signed, zero)
    return b.select(below, b.sub(zero, signed), signed), b.select(below, b.sub(zero, a), a)


def _native(b: ir.IRBuilder, half: str, full: str, element: ir.Type, x: ir.Value, y: ir.Value) -> ir.Value:
    """An intrinsic of 256 or 512 bits that gives as many bits, in elements of a type."""
    size = x.type.count * x.type.element.width
    if size == 512 and TARGET.dot != "maddubs512":
        return _halves(b, lambda v, w: _native(b, half, full, element, v, w), x, y)
    return call(b, half if size == 256 else full, ir.VectorType(element, size // element.width), [x, y])


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


def dot2(b: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """acc[f32] + the sums over two neighbours of x·y, vectors of 32 bits that each hold two bf16."""
    lanes = acc.type.count
    pairs = ir.VectorType(BF16, 2 * lanes)
    values = [acc, b.bitcast(x, pairs), b.bitcast(y, pairs)]
    return call(b, f"x86.avx512bf16.dpbf16ps.{32 * lanes}", acc.type, values)

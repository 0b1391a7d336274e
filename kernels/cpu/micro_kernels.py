"""The innermost steps of the products: a few vector instructions over registers, unrolled as they are emitted."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..layout import LANES, LANES_D, LANES_SUMS, RECORD_BYTES, SUMS, WOVEN, D
from ..simd import (
    F32,
    I8,
    I32,
    I64,
    Dots,
    call,
    constant,
    dot2,
    f32x16,
    i8x64,
    i32x16,
    loaded,
    multiply_add,
    shuffled,
    splat,
    stored,
    taken_off,
)

# --- a few tokens: a row of weights along their records ----------------------------------------------


def _sums_of_16(b: ir.IRBuilder, dots: list[ir.Value]) -> ir.Value:
    """Four vectors of 16 sums over 4 columns → the sums over 16 columns, in woven order: two rounds of exchanges."""

    def pairs(low: ir.Value, high: ir.Value, size: int) -> ir.Value:
        every = range(0, 16, 4)
        if size == 1:
            first = [i for L in every for i in (L, 16 + L, L + 1, 17 + L)]
            second = [i for L in every for i in (L + 2, 18 + L, L + 3, 19 + L)]
        else:
            first = [i for L in every for i in (L, L + 1, 16 + L, 17 + L)]
            second = [i for L in every for i in (L + 2, L + 3, 18 + L, 19 + L)]
        return b.add(shuffled(b, low, high, first), shuffled(b, low, high, second))

    return pairs(pairs(dots[0], dots[1], 1), pairs(dots[2], dots[3], 1), 2)


def _products(b: ir.IRBuilder, start: ir.Value, q: ir.Value, a: ir.Value, bits: int) -> ir.Value:
    dots = Dots(b, start, bits)
    dots.add(q, a)
    return dots.total()


def _below(b: ir.IRBuilder, scales: ir.Value, least: ir.Value, bits: int) -> ir.Value:
    """What the sums of activations are multiplied by: -least, and what was taken off q."""
    if not taken_off(bits):
        return b.fneg(least)
    return b.fsub(b.fmul(scales, constant(F32, [float(taken_off(bits))] * 16)), least)


def dot_record(bits: int, n_tokens: int) -> Any:
    """dot(acc, q, scales, least, records) → acc: n_tokens of f32x16, onto whose lanes 256 columns' products go.

    q: four vectors of 64 bytes; scales, least: f32x16 in woven order; records: of bytes, one token's after another's.
    """
    size = RECORD_BYTES["bytes"]

    @intrinsic
    def dot(context, acc, q, scales, least, records):
        def codegen(context, b, sig, args):
            acc, q, scales, least, records = args
            zero, least = constant(I32, [0] * 16), _below(b, scales, least, bits)
            for t in range(n_tokens):
                a = [loaded(b, records, i8x64.llvm, size * t + 64 * j) for j in range(4)]
                dots = [_products(b, zero, b.extract_value(q, j), a[j], bits) for j in range(4)]
                sums = b.sitofp(_sums_of_16(b, dots), f32x16.llvm)
                d, own = (loaded(b, records, f32x16.llvm, size * t + at) for at in (D, SUMS))
                value = multiply_add(b, sums, b.fmul(scales, d), b.extract_value(acc, t))
                acc = b.insert_value(acc, multiply_add(b, least, own, value), t)
            return acc

        return acc(acc, q, scales, least, records), codegen

    return dot


def dot_piece(bits: int, place: int, n_tokens: int) -> Any:
    """The same for the 64 columns at `place` (0 to 3) of a record; scales, least: on lanes 0 to 3, zeros beyond."""
    size = RECORD_BYTES["bytes"]

    @intrinsic
    def dot(context, acc, q, scales, least, records):
        def codegen(context, b, sig, args):
            acc, q, scales, least, records = args
            scale, least = shuffled(b, scales, None, [i // 4 for i in range(16)]), _below(b, scales, least, bits)
            for t in range(n_tokens):
                a = loaded(b, records, i8x64.llvm, size * t + 64 * place)
                dots = _products(b, constant(I32, [0] * 16), b.extract_value(q, 0), a, bits)
                dots = b.sitofp(dots, f32x16.llvm)
                d, sums = (loaded(b, records, f32x16.llvm, size * t + at) for at in (D, SUMS))
                d = shuffled(b, d, None, [i // 4 * 4 + place for i in range(16)])
                own = shuffled(b, sums, None, [4 * i + place if i < 4 else i for i in range(16)])
                value = multiply_add(b, dots, b.fmul(scale, d), b.extract_value(acc, t))
                acc = b.insert_value(acc, multiply_add(b, least, own, value), t)
            return acc

        return acc(acc, q, scales, least, records), codegen

    return dot


def dot_floats(n_tokens: int) -> Any:
    """dot(acc, w, records) → acc: the same for 16 columns w[f32x16] of floats; records: of floats."""
    size = RECORD_BYTES["floats"]

    @intrinsic
    def dot(context, acc, w, records):
        def codegen(context, b, sig, args):
            acc, w, records = args
            for t in range(n_tokens):
                x = loaded(b, records, f32x16.llvm, size * t)
                acc = b.insert_value(acc, multiply_add(b, w, x, b.extract_value(acc, t)), t)
            return acc

        return acc(acc, w, records), codegen

    return dot


def store_totals(n_tokens: int, stride: int) -> Any:
    """store_totals(address, acc): the sum of each token's lanes, f32, `stride` bytes apart."""

    @intrinsic
    def store(context, address, acc):
        def codegen(context, b, sig, args):
            for t in range(n_tokens):
                total = call(b, "vector.reduce.fadd.v16f32", F32, [F32(-0.0), b.extract_value(args[1], t)])
                total.fastmath.add("reassoc")
                stored(b, args[0], total, stride * t)
            return context.get_dummy_value()

        return types.void(address, acc), codegen

    return store


def dequantise(offset: int) -> Any:
    """dequantise(out, q, scales, mins): store the columns of a unit as f32, scale·(q - offset) - min."""

    @intrinsic
    def store(context, out, q, scales, mins):
        def codegen(context, b, sig, args):
            out, q, scales, mins = args
            for i in range(4 * q.type.count):
                sixteen = shuffled(b, b.extract_value(q, i // 4), None, range(i % 4 * 16, i % 4 * 16 + 16))
                whole = b.sub(b.zext(sixteen, i32x16.llvm), constant(I32, [offset] * 16))
                scale, least = (shuffled(b, v, None, [WOVEN[i]] * 16) for v in (scales, mins))
                stored(b, out, b.fsub(b.fmul(b.sitofp(whole, f32x16.llvm), scale), least), 64 * i)
            return context.get_dummy_value()

        return types.void(out, q, scales, mins), codegen

    return store


# --- many tokens: each of a few rows with tokens side by side --------------------------------------

ROWS = 64  # of weights that a thread has unpacked at a time
ROW = 256  # bytes from one of them to the next
ROW_SCALES = 64  # and of its scales, and mins


def byte_group(
    group: int, bits: int, offset: int, has_mins: bool, rounded: bool, n_rows: int, n_vectors: int, lanes: int
) -> Any:
    """step(acc, q, scales, mins, records, g) → acc: 32 columns of n_rows, with n_vectors × `lanes` tokens.

    acc: vectors over tokens, for [row][vector]; q: address of the first row's bytes; scales, mins: of its f32[16], one
    for each 16 columns; records: of the first tokens' in their record; g: which 32 of its columns. rounded: a row's
    bytes have one scale, which is left to the caller.
    """
    ints, floats, size = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes), RECORD_BYTES["byte_lanes"]
    parts = [(first, first + group) for first in range(0, 32, group)]
    offset -= taken_off(bits)

    @intrinsic
    def step(context, acc, q, scales, mins, records, g):
        def codegen(context, b, sig, args):
            acc, q, scales, mins, records, g = args
            lines, sums_at, d_at = (b.add(records, b.mul(g, I64(n))) for n in (8 * 4 * LANES, 8 * LANES, 4 * LANES))
            row = b.add(q, b.mul(g, I64(32)))
            scale_at, min_at = (b.add(at, b.mul(g, I64(8))) for at in (scales, mins))
            d = [loaded(b, d_at, floats, LANES_D + size * v) for v in range(n_vectors)]
            for first, end in parts:
                places = [LANES_SUMS + 4 * LANES * i for i in range(first // 16, end // 16)]
                sums = [[loaded(b, sums_at, ints, size * v + place) for place in places] for v in range(n_vectors)]
                total = [s[0] if len(s) == 1 else b.add(*s) for s in sums] if offset or has_mins else []
                start = [b.mul(s, constant(I32, [-offset] * lanes)) for s in total] if offset else []
                start = start or [constant(I32, [0] * lanes)] * n_vectors
                dots = [[Dots(b, one, bits) for one in start] for _ in range(n_rows)]
                for c in range(first, end, 4):
                    a = [
                        loaded(b, lines, ir.VectorType(I8, 4 * lanes), 16 * c + size * v) for v in range(n_vectors)
                    ]
                    for r in range(n_rows):
                        w = b.bitcast(splat(b, loaded(b, row, I32, ROW * r + c), lanes), a[0].type)
                        for dot, x in zip(dots[r], a, strict=True):
                            dot.add(w, x)
                least = [b.fmul(b.fneg(d[v]), b.sitofp(total[v], floats)) for v in range(n_vectors)] if has_mins else []
                for r in range(n_rows):
                    place = ROW_SCALES * r + 4 * (first // 16)
                    scale = None if rounded else splat(b, loaded(b, scale_at, F32, place), lanes)
                    low = splat(b, loaded(b, min_at, F32, place), lanes) if has_mins else None
                    for v in range(n_vectors):
                        at = r * n_vectors + v
                        value, dot = b.extract_value(acc, at), b.sitofp(dots[r][v].total(), floats)
                        if scale is None:
                            value = multiply_add(b, dot, d[v], value)
                        else:
                            value = multiply_add(b, b.fmul(dot, d[v]), scale, value)
                        if low is not None:
                            value = multiply_add(b, least[v], low, value)
                        acc = b.insert_value(acc, value, at)
            return acc

        return acc(acc, q, scales, mins, records, g), codegen

    return step


def float_column(n_rows: int, n_vectors: int, lanes: int, bfloats: bool) -> Any:
    """step(acc, w, lines) → acc: one column of n_rows of floats, each ROW bytes from the next; else as byte_group.

    bfloats: two columns of bf16, side by side in weights and lines.
    """
    element, size = (I32, RECORD_BYTES["bfloat_lanes"]) if bfloats else (F32, RECORD_BYTES["float_lanes"])
    multiply = (lambda b, w, x, acc: dot2(b, acc, w, x)) if bfloats else multiply_add

    @intrinsic
    def step(context, acc, w, lines):
        def codegen(context, b, sig, args):
            acc, w, lines = args
            x = [loaded(b, lines, ir.VectorType(element, lanes), size * v) for v in range(n_vectors)]
            for r in range(n_rows):
                one = splat(b, loaded(b, w, element, ROW * r), lanes)
                for v in range(n_vectors):
                    at = r * n_vectors + v
                    acc = b.insert_value(acc, multiply(b, one, x[v], b.extract_value(acc, at)), at)
            return acc

        return acc(acc, w, lines), codegen

    return step


def add_scaled(n_rows: int, n_vectors: int) -> Any:
    """add(sums, acc, scales) → sums + acc times each row's scale, the first of its f32[16]."""

    @intrinsic
    def add(context, sums, acc, scales):
        def codegen(context, b, sig, args):
            sums, acc, scales = args
            for r in range(n_rows):
                scale = splat(b, loaded(b, scales, F32, ROW_SCALES * r), acc.type.element.count)
                for at in range(r * n_vectors, (r + 1) * n_vectors):
                    value = multiply_add(b, b.extract_value(acc, at), scale, b.extract_value(sums, at))
                    sums = b.insert_value(sums, value, at)
            return sums

        return sums(sums, acc, scales), codegen

    return add

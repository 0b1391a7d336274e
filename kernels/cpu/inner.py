"""The innermost steps of the products: a few vector instructions over registers, unrolled as they are emitted."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..layout import F32_BYTES, Q8_BYTES, Q8_D, Q8_SUM16, Q8_SUM32
from ..simd import (
    F32,
    I32,
    I64,
    call,
    constant,
    dot4,
    f32x16,
    i8x64,
    i32x16,
    loaded,
    shuffled,
    splat,
    stored,
)


def _multiply_add(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    return call(b, "llvm.fmuladd.v16f32", x.type, [x, y, z])


def dot_unit(bits: int) -> Any:
    """dot_unit(q, scales, mins, record, lane) → f32x16 whose lanes sum to the dot product of one unit.

    q: the unit's vectors of 64 bytes; record: address of the activations of its first column; lane: the
    address of d for its first 16 columns.
    """

    @intrinsic
    def dot_unit(context, q, scales, mins, record, lane):
        def codegen(context, b, sig, args):
            q, scales, mins, record, lane = args
            scaled = b.fmul(scales, loaded(b, lane, f32x16.llvm))
            parts = []
            for j in range(q.type.count):
                a = loaded(b, record, i8x64.llvm, 64 * j)
                dots = dot4(b, constant(I32, [0] * 16), b.extract_value(q, j), a, bits)
                parts.append(
                    (b.sitofp(dots, f32x16.llvm), shuffled(b, scaled, None, [4 * j + i // 4 for i in range(16)]))
                )
            sums = loaded(b, lane, f32x16.llvm, Q8_SUM16 - Q8_D)
            total = b.fneg(b.fmul(mins, sums))
            for dots, scale in parts[::2]:
                total = _multiply_add(b, dots, scale, total)
            if len(parts) > 1:  # two chains of additions, half as long
                other = b.fmul(*parts[1])
                for dots, scale in parts[3::2]:
                    other = _multiply_add(b, dots, scale, other)
                total = b.fadd(total, other)
            return total

        return f32x16(q, scales, mins, record, lane), codegen

    return dot_unit


def dequantise(offset: int) -> Any:
    """dequantise(out, q, scales, mins): store the columns of a unit as f32, scale·(q - offset) - min."""

    @intrinsic
    def store(context, out, q, scales, mins):
        def codegen(context, b, sig, args):
            out, q, scales, mins = args
            for i in range(4 * q.type.count):
                sixteen = shuffled(b, b.extract_value(q, i // 4), None, range(i % 4 * 16, i % 4 * 16 + 16))
                whole = b.sub(b.zext(sixteen, i32x16.llvm), constant(I32, [offset] * 16))
                scale, least = (shuffled(b, v, None, [i] * 16) for v in (scales, mins))
                stored(b, out, b.fsub(b.fmul(b.sitofp(whole, f32x16.llvm), scale), least), 64 * i)
            return context.get_dummy_value()

        return types.void(out, q, scales, mins), codegen

    return store


def byte_group(
    group: int, bits: int, n_tokens: int, n_tiles: int, tile_bytes: int, scales_at: int, mins_offset: int
) -> Any:
    """step(acc, tiles, records, place) → acc: one group of columns of n_tiles × 16 rows, for n_tokens.

    acc: f32x16 over rows, for [token][tile]; tiles: address of the first, tile_bytes apart, each of bytes
    [column / 4][row][4], with scales f32[group of 16][row] at `scales_at` and mins `mins_offset` on; records: the
    first token's; place: the group's number within them.
    """

    @intrinsic
    def step(context, acc, tiles, records, place):
        def codegen(context, b, sig, args):
            acc, tiles, records, place = args
            columns = b.add(records, b.mul(place, I64(group)))
            q = b.add(tiles, b.mul(place, I64(16 * group)))
            scales = b.add(tiles, b.mul(place, I64(4 * group)))
            d_at = b.add(records, b.mul(place, I64(group // 4)))
            sum_at = b.add(records, b.mul(place, I64(4)))
            sums = Q8_SUM16 if group == 16 else Q8_SUM32
            dots = [[constant(I32, [0] * 16)] * n_tiles for _ in range(n_tokens)]
            for c in range(0, group, 4):
                weights = [loaded(b, q, i8x64.llvm, 16 * c + i * tile_bytes) for i in range(n_tiles)]
                for t in range(n_tokens):
                    four = b.bitcast(splat(b, loaded(b, columns, I32, c + Q8_BYTES * t), 16), i8x64.llvm)
                    dots[t] = [dot4(b, dot, w, four, bits) for dot, w in zip(dots[t], weights, strict=True)]
            scale = [loaded(b, scales, f32x16.llvm, scales_at + i * tile_bytes) for i in range(n_tiles)]
            low = [loaded(b, scales, f32x16.llvm, scales_at + mins_offset + i * tile_bytes) for i in range(n_tiles)]
            for t in range(n_tokens):
                d = splat(b, loaded(b, d_at, F32, Q8_D + Q8_BYTES * t), 16)
                total = b.fneg(splat(b, loaded(b, sum_at, F32, sums + Q8_BYTES * t), 16))
                for i in range(n_tiles):
                    value = b.extract_value(acc, t * n_tiles + i)
                    value = _multiply_add(b, b.fmul(b.sitofp(dots[t][i], f32x16.llvm), d), scale[i], value)
                    acc = b.insert_value(acc, _multiply_add(b, total, low[i], value), t * n_tiles + i)
            return acc

        return acc(acc, tiles, records, place), codegen

    return step


def float_column(n_tokens: int, n_tiles: int, tile_bytes: int) -> Any:
    """step(acc, tiles, records) → acc: one column of n_tiles × 16 rows of floats, for n_tokens; else as byte_group."""

    @intrinsic
    def step(context, acc, tiles, records):
        def codegen(context, b, sig, args):
            acc, tiles, records = args
            weights = [loaded(b, tiles, f32x16.llvm, i * tile_bytes) for i in range(n_tiles)]
            for t in range(n_tokens):
                one = splat(b, loaded(b, records, F32, F32_BYTES * t), 16)
                for i in range(n_tiles):
                    value = _multiply_add(b, one, weights[i], b.extract_value(acc, t * n_tiles + i))
                    acc = b.insert_value(acc, value, t * n_tiles + i)
            return acc

        return acc(acc, tiles, records), codegen

    return step


def outer(n_rows: int, n_vectors: int) -> Any:
    """step(acc, a, stride, b) → acc: one step of a product of floats, acc[r][v] += a[r]·b[v].

    acc: n_rows × n_vectors of f32x16, flat; a: address of a float, the next row's `stride` bytes on;
    b: address of n_vectors × 16 floats.
    """

    @intrinsic
    def step(context, acc, a, stride, vectors):
        def codegen(context, b, sig, args):
            acc, a, stride, vectors = args
            values = [loaded(b, vectors, f32x16.llvm, 64 * i) for i in range(n_vectors)]
            for r in range(n_rows):
                one = splat(b, loaded(b, b.add(a, b.mul(stride, I64(r))), F32), 16)
                for i in range(n_vectors):
                    at = r * n_vectors + i
                    acc = b.insert_value(acc, _multiply_add(b, one, values[i], b.extract_value(acc, at)), at)
            return acc

        return acc(acc, a, stride, vectors), codegen

    return step


def zeros(n: int) -> Any:
    """zeros() → a tuple of n vectors f32x16."""
    kind = types.UniTuple(f32x16, n)

    @intrinsic
    def make(context):
        return kind(), lambda context, b, sig, args: ir.Constant(context.get_value_type(kind), [[0.0] * 16] * n)

    return make


def _places(b: ir.IRBuilder, address: ir.Value, stride: ir.Value, n: int, m: int) -> list[tuple[ir.Value, int]]:
    """Where n times m neighbouring vectors lie, `stride` bytes from one group to the next: (address, offset)."""
    rows = [b.add(address, b.mul(stride, I64(i))) for i in range(n)]
    return [(row, 64 * j) for row in rows for j in range(m)]


def load_tuple(n: int, m: int) -> Any:
    """load_tuple(address, stride) → n × m vectors f32x16, flat: n times m neighbours, `stride` bytes apart."""
    kind = types.UniTuple(f32x16, n * m)

    @intrinsic
    def load(context, address, stride):
        def codegen(context, b, sig, args):
            out = ir.Constant(context.get_value_type(kind), ir.Undefined)
            for i, (at, offset) in enumerate(_places(b, *args, n, m)):
                out = b.insert_value(out, loaded(b, at, f32x16.llvm, offset), i)
            return out

        return kind(address, stride), codegen

    return load


def store_tuple(n: int, m: int) -> Any:
    """store_tuple(address, stride, acc): the reverse of load_tuple."""
    kind = types.UniTuple(f32x16, n * m)

    @intrinsic
    def store(context, address, stride, acc):
        def codegen(context, b, sig, args):
            for i, (at, offset) in enumerate(_places(b, *args[:2], n, m)):
                stored(b, at, b.extract_value(args[2], i), offset)
            return context.get_dummy_value()

        return types.void(address, stride, kind), codegen

    return store


def _pairwise(lanes: tuple[list[int], list[int]]) -> Any:
    kind = types.UniTuple(f32x16, 2)

    @intrinsic
    def both(context, x, y):
        def codegen(context, b, sig, args):
            out = ir.Constant(context.get_value_type(kind), ir.Undefined)
            for i in range(2):
                out = b.insert_value(out, shuffled(b, *args, lanes[i]), i)
            return out

        return kind(x, y), codegen

    return both


#: 32 neighbouring numbers in two vectors → the even ones, the odd ones; and back.
split_pairs = _pairwise(([*range(0, 32, 2)], [*range(1, 32, 2)]))
join_pairs = _pairwise(([i // 2 + i % 2 * 16 for i in range(16)], [8 + i // 2 + i % 2 * 16 for i in range(16)]))

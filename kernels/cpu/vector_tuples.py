"""Tuples of vectors that stay in registers: made, loaded, stored, and multiplied as attention needs it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..simd import F32, I64, Vector, dot2, f32x16, loaded, multiply_add, shuffled, splat, stored


def outer(n_rows: int, n_vectors: int, pairs: bool) -> Any:
    """step(acc, a, stride, vectors) → acc: one step of a product of floats, acc[r][v] += a[r]·vectors[v].

    acc: n_rows × n_vectors of f32x16, flat; a: address of a float, the next row's `stride` bytes on. pairs: each float
    is two bf16 instead, whose products are both added.
    """
    multiply = (lambda b, x, y, acc: dot2(b, acc, x, y)) if pairs else multiply_add

    @intrinsic
    def step(context, acc, a, stride, vectors):
        def codegen(context, b, sig, args):
            acc, a, stride, vectors = args
            values = [b.extract_value(vectors, i) for i in range(n_vectors)]
            for r in range(n_rows):
                one = splat(b, loaded(b, b.add(a, b.mul(stride, I64(r))), F32), 16)
                for i in range(n_vectors):
                    at = r * n_vectors + i
                    acc = b.insert_value(acc, multiply(b, one, values[i], b.extract_value(acc, at)), at)
            return acc

        return acc(acc, a, stride, vectors), codegen

    return step


def zeros(n: int, lanes: int = 16) -> Any:
    """zeros() → a tuple of n vectors of floats."""
    kind = types.UniTuple(Vector("f32", lanes), n)

    @intrinsic
    def make(context):
        return kind(), lambda context, b, sig, args: ir.Constant(context.get_value_type(kind), [[0.0] * lanes] * n)

    return make


def _places(
    b: ir.IRBuilder, address: ir.Value, stride: ir.Value, next_stride: int, n: int, m: int
) -> list[tuple[ir.Value, int]]:
    """Where n times m vectors lie, `stride` bytes from one group to the next: (address, offset)."""
    rows = [b.add(address, b.mul(stride, I64(i))) for i in range(n)]
    return [(row, next_stride * j) for row in rows for j in range(m)]


def load_tuple(n: int, m: int, next_stride: int = 64, lanes: int = 16) -> Any:
    """load_tuple(address, stride) → n × m vectors of floats, flat: m are `next_stride` bytes apart, n `stride`."""
    kind = types.UniTuple(Vector("f32", lanes), n * m)

    @intrinsic
    def load(context, address, stride):
        def codegen(context, b, sig, args):
            out = ir.Constant(context.get_value_type(kind), ir.Undefined)
            for i, (at, offset) in enumerate(_places(b, *args, next_stride, n, m)):
                out = b.insert_value(out, loaded(b, at, kind.dtype.llvm, offset), i)
            return out

        return kind(address, stride), codegen

    return load


def store_tuple(n: int, m: int, next_stride: int = 64, lanes: int = 16) -> Any:
    """store_tuple(address, stride, acc): the reverse of load_tuple."""
    kind = types.UniTuple(Vector("f32", lanes), n * m)

    @intrinsic
    def store(context, address, stride, acc):
        def codegen(context, b, sig, args):
            for i, (at, offset) in enumerate(_places(b, *args[:2], next_stride, n, m)):
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

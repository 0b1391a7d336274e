"""Products of rows with a page of the KV cache: of queries with its keys, of weights with its values.

Both are out[r][c] += Σ a[r][k]·b[k][c]: over dimensions k, for keys c; and over keys k, for dimensions c of values.
`direct` takes b out of the cache (kv.py) as it multiplies; `by_pairs` makes it bf16 first, which pays for many rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..simd import TARGET, inline, interleave, load_f32, shared, splat_f32, store, to_bfloat
from .vector_tuples import load_tuple, outer, store_tuple

#: (rows, vectors) that are taken together: many rows, few, and what is left.
_SHAPES = ((6, 4), (2, 4), (1, 4)) if TARGET.n_registers == 32 else ((4, 1), (2, 2), (1, 4))


@inline
def _load_pairs(b, following, k, c, width):
    return load_f32(b + 4 * (k * width + c))


@cache
def _vectors(load: Any, n: int) -> Any:
    """n vectors, side by side."""

    @inline
    def one(b, following, k, c, width):
        return (load(b, following, k, c, width),)

    @inline
    def two(b, following, k, c, width):
        return load(b, following, k, c, width), load(b, following, k, c + 16, width)

    @inline
    def four(b, following, k, c, width):
        return (
            load(b, following, k, c, width), load(b, following, k, c + 16, width), load(b, following, k, c + 32, width),
            load(b, following, k, c + 48, width),
        )  # fmt: skip

    return {1: one, 2: two, 4: four}[n]


def _rows(n_rows: int, n_vectors: int, load: Any, pairs: bool) -> Any:
    """add(out, out_stride, a, a_stride, b, following, first, end, depth, width): n_rows, and columns first to end."""
    start, save, step = load_tuple(n_rows, n_vectors), store_tuple(n_rows, n_vectors), outer(n_rows, n_vectors, pairs)
    vectors = _vectors(load, n_vectors)

    @inline
    def add(out, out_stride, a, a_stride, b, following, first, end, depth, width):
        for c in range(first, end, 16 * n_vectors):
            acc = start(out + 4 * c, out_stride)
            for k in range(depth):
                acc = step(acc, a + 4 * k, a_stride, vectors(b, following, k, c, width))
            save(out + 4 * c, out_stride, acc)

    return add


@cache
def _product(load: Any, pairs: bool) -> Any:
    """add(out, out_stride, a, a_stride, n_rows, b, following, depth, width): for any number of rows."""
    (n_many, v_many), (n_few, v_few), (_, v_one) = _SHAPES
    add_many, add_few, add_one = (_rows(*shape, load, pairs) for shape in _SHAPES)
    end_many, end_one = (_rows(n_rows, 1, load, pairs) for n_rows in (n_many, 1))

    @shared
    def add(out, out_stride, a, a_stride, n_rows, b, following, depth, width):
        whole = width // (16 * v_many) * 16 * v_many
        for r in range(0, n_rows // n_many * n_many, n_many):
            o, x = out + r * out_stride, a + r * a_stride
            add_many(o, out_stride, x, a_stride, b, following, 0, whole, depth, width)
            end_many(o, out_stride, x, a_stride, b, following, whole, width, depth, width)
        r, whole = n_rows // n_many * n_many, width // (16 * v_few) * 16 * v_few
        while n_rows - r >= n_few:
            o, x = out + r * out_stride, a + r * a_stride
            add_few(o, out_stride, x, a_stride, b, following, 0, whole, depth, width)
            for row in range(n_few):
                at, y = o + row * out_stride, x + row * a_stride
                end_one(at, out_stride, y, a_stride, b, following, whole, width, depth, width)
            r += n_few
        if r < n_rows:
            o, x, whole = out + r * out_stride, a + r * a_stride, width // (16 * v_one) * 16 * v_one
            add_one(o, out_stride, x, a_stride, b, following, 0, whole, depth, width)
            end_one(o, out_stride, x, a_stride, b, following, whole, width, depth, width)

    return add


def direct(load: Any) -> Any:
    """add(out, out_stride, a, a_stride, n_rows, b, following, depth, width, spare): b as the cache has it.

    out: f32[n_rows][width], width a multiple of 16; a: f32[n_rows][depth]; strides in bytes from row to row; load: of
    kv.py, which says what b and `following` are. spare: room for b as i32[depth / 2][width].
    """
    product = _product(load, False)

    @inline
    def add(out, out_stride, a, a_stride, n_rows, b, following, depth, width, spare):
        product(out, out_stride, a, a_stride, n_rows, b, following, depth, width)

    return add


def by_pairs(load: Any) -> Any:
    """The same with a as bf16[n_rows][depth], and b rounded to it: in a copy with neighbours k side by side."""
    product = _product(_load_pairs, True)

    @inline
    def add(out, out_stride, a, a_stride, n_rows, b, following, depth, width, spare):
        for k in range(0, depth, 2):
            for c in range(0, width, 16):
                odd = load(b, following, k + 1, c, width) if k + 1 < depth else splat_f32(0.0)
                both = interleave(to_bfloat(load(b, following, k, c, width)), to_bfloat(odd))
                store(spare + 4 * (k // 2 * width + c), both)
        product(out, out_stride, a, a_stride, n_rows, spare, spare, (depth + 1) // 2, width)

    return add

"""Keys and values in a page of the KV cache, as each type of cache keeps them.

A page holds 64 tokens of one sequence: for each layer its heads' keys, then its heads' values. Keys are transposed,
so that a query's products with 64 of them run along the lanes and need no sum across:

          a head's keys                                  a head's values
    f16   f16[dim][token]                                f16[token][dim, filled up to a multiple of 16]
    q8_0  for 32 dims: i8[dim][token], f16 d[token]      [token] of GGUF's blocks: f16 d, i8[32]
    q4_0  for 32 dims: u8[dim / 2][token], f16 d[token]  [token] of GGUF's blocks: f16 d, u8[16]

A byte of q4_0 holds, as in GGUF, dimension i of 32 and, above it, dimension i + 16; each is d·(q - 8).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..layout import KV_GROUP, PAGE, SCRATCH
from ..library import Ref
from ..simd import (
    absolute,
    bytes_to_f32,
    get_f16,
    get_f32,
    get_i64,
    get_u8,
    inline,
    load_f16,
    load_f32,
    load_first,
    load_i8x16,
    maximum,
    minimum,
    narrow_i8,
    nearest,
    prefetch_later,
    put_f16,
    put_i8,
    reduce_max,
    reduce_min,
    shift_right_i8x16,
    signed_to_f32,
    splat_f32,
    splat_i8x16,
    store,
    store_f16,
    to_i32,
)
from .work_stealing import claim

_N_BYTES = {"q8_0": 32, "q4_0": 16}  # of a group's numbers, for one token


# --- into the cache ------------------------------------------------------------------------------


@inline
def _quantise_q8_0(x, q):
    """32 floats at x → 32 bytes at q; gives d."""
    low, high = load_f32(x), load_f32(x + 64)
    largest = reduce_max(maximum(absolute(low), absolute(high)))
    scale = splat_f32(127.0 / largest if largest > 0.0 else 0.0)
    store(q, narrow_i8(to_i32(nearest(low * scale))))
    store(q + 16, narrow_i8(to_i32(nearest(high * scale))))
    return largest / 127.0


@inline
def _quantise_q4_0(x, q):
    """32 floats at x → 16 bytes at q; gives d: the largest of them, by size, becomes q = 0."""
    low, high = load_f32(x), load_f32(x + 64)
    top, bottom = reduce_max(maximum(low, high)), reduce_min(minimum(low, high))
    d = (bottom if -bottom > top else top) / -8.0
    scale, middle, most = splat_f32(1.0 / d if d != 0.0 else 0.0), splat_f32(8.5), splat_f32(15.0)
    # what is positive is rounded by cutting off; 8 + 8.5 does not fit
    low, high = minimum(low * scale + middle, most), minimum(high * scale + middle, most)
    store(q, narrow_i8(to_i32(low) + to_i32(high) * to_i32(splat_f32(16.0))))
    return d


_QUANTISE = {"q8_0": _quantise_q8_0, "q4_0": _quantise_q4_0}


@cache
def _put_key(kind: str) -> Any:
    """put(keys, place, x, dim, spare): one head of a token's key, f32[dim]."""
    if kind == "f16":

        @inline
        def put(keys, place, x, dim, spare):
            for i in range(dim):
                put_f16(keys + 2 * (i * PAGE + place), get_f32(x + 4 * i))

        return put
    quantise, n_bytes = _QUANTISE[kind], _N_BYTES[kind]

    @inline
    def put_groups(keys, place, x, dim, spare):
        for _ in range(dim // KV_GROUP):
            d = quantise(x, spare)
            for i in range(n_bytes):
                put_i8(keys + i * PAGE + place, get_u8(spare + i))
            put_f16(keys + n_bytes * PAGE + 2 * place, d)
            keys, x = keys + (n_bytes + 2) * PAGE, x + 4 * KV_GROUP

    return put_groups


@cache
def _put_value(kind: str) -> Any:
    """put(values, place, x, dim): one head of a token's value, f32[dim]."""
    if kind == "f16":

        @inline
        def put(values, place, x, dim):
            stride = (dim + 15) // 16 * 16
            for i in range(0, dim, 16):
                store_f16(values + 2 * (place * stride + i), load_first(x + 4 * i, dim - i))

        return put
    quantise, n_bytes = _QUANTISE[kind], _N_BYTES[kind]

    @inline
    def put_groups(values, place, x, dim):
        at = values + place * (dim // KV_GROUP * (n_bytes + 2))
        for _ in range(dim // KV_GROUP):
            put_f16(at, quantise(x, at + 2))
            at, x = at + n_bytes + 2, x + 4 * KV_GROUP

    return put_groups


def save(k_type: str, v_type: str) -> Any:
    """Put each token's key and value into its page.

    slots: i64[token][2], the page's address and the place in it; k_offset, v_offset: where the layer's keys and values
    begin in a page; k_bytes, v_bytes: from one head to the next. v_token: numbers of v from one token to the next.
    """
    put_key, put_value = _put_key(k_type), _put_value(v_type)

    def body(
        thread: int, n_threads: int, counter: int,
        k: int, v: int, slots: int, n_heads: int, head_dim: int, v_dim: int, v_token: int,
        k_offset: int, v_offset: int, k_bytes: int, v_bytes: int, scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        spare = scratch + thread * SCRATCH
        while True:
            t = claim(counter, thread, n_threads, n_tokens)
            if t >= n_tokens:
                break
            page, place = get_i64(slots + 16 * t), get_i64(slots + 16 * t + 8)
            for head in range(n_heads):
                x = k + 4 * (t * n_heads + head) * head_dim
                put_key(page + k_offset + head * k_bytes, place, x, head_dim, spare)
                x = v + 4 * (t * v_token + head * v_dim)
                put_value(page + v_offset + head * v_bytes, place, x, v_dim)

    return body


# --- and out again -------------------------------------------------------------------------------


@inline
def _load_f16(rows, following, k, c, width):
    at = 2 * (k * width + c)
    prefetch_later(following + at)
    return load_f16(rows + at)


@cache
def key_loader(kind: str) -> Any:
    """load(keys, following, k, c, width) → f32x16: dimension k of 16 keys from key c on; width: PAGE.

    Asks for the same of the page whose keys are at `following`.
    """

    @inline
    def load_q8_0(keys, following, k, c, width):
        group, at = k // KV_GROUP * 34 * width, k % KV_GROUP * width + c
        prefetch_later(following + group + at)
        return signed_to_f32(load_i8x16(keys + group + at)) * load_f16(keys + group + KV_GROUP * width + 2 * c)

    @inline
    def load_q4_0(keys, following, k, c, width):
        group, half = k // KV_GROUP * 18 * width, KV_GROUP // 2
        at = group + k % half * width + c
        prefetch_later(following + at)
        return _nibbles(keys + at, k % KV_GROUP // half) * load_f16(keys + group + half * width + 2 * c)

    return {"f16": _load_f16, "q8_0": load_q8_0, "q4_0": load_q4_0}[kind]


@cache
def value_loader(kind: str) -> Any:
    """load(values, following, k, c, width) → f32x16: 16 dimensions from c on of value k; else as for keys."""

    @inline
    def load_q8_0(values, following, k, c, width):
        at = (k * width + c) // KV_GROUP * 34
        prefetch_later(following + at)
        return signed_to_f32(load_i8x16(values + at + 2 + c % KV_GROUP)) * splat_f32(get_f16(values + at))

    @inline
    def load_q4_0(values, following, k, c, width):
        at = (k * width + c) // KV_GROUP * 18
        prefetch_later(following + at)
        return _nibbles(values + at + 2, c % KV_GROUP // 16) * splat_f32(get_f16(values + at))

    return {"f16": _load_f16, "q8_0": load_q8_0, "q4_0": load_q4_0}[kind]


@inline
def _nibbles(at, high):
    """The low or the high nibbles of 16 bytes, less 8, as floats."""
    return bytes_to_f32(shift_right_i8x16(load_i8x16(at), 4 * high) & splat_i8x16(15)) - splat_f32(8.0)

"""Keys and values in a page of the KV cache, as each type of cache keeps them.

A page holds 64 tokens of one sequence: for each layer its heads' keys, then its heads' values. Keys are transposed,
so that a query's products with 64 of them run along the lanes and need no sum across:

                 a head's keys                                     a head's values
    f32, f16 …   number[dim][token]                                number[token][dim, filled up to a multiple of 16]
    blocks       for 32 dims: u8[bytes of q][token], then          [token] of GGUF's blocks: f16 d, f16 m of q4_1 and
                 u8[4][token] of fifth bits, f16 d[token],         q5_1, 32 fifth bits of q5_0 and q5_1, and q: i8[32],
                 f16 m[token], for types that have them            or u8[16] of nibbles

A byte of nibbles holds, as in GGUF, dimension i of 32 and, above it, dimension i + 16; each is d·(q - zero) + m, or
d·steps[q].
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..layout import KV_GROUP, PAGE, SCRATCH
from ..library import Ref
from ..simd import (
    get_f16,
    get_f32,
    get_i64,
    get_u8,
    get_u32,
    inline,
    load_bf16,
    load_f16,
    load_f32,
    load_first,
    load_i8x16,
    prefetch_later,
    put_bf16,
    put_f16,
    put_f32,
    put_i8,
    shift_right_i8x16,
    sixteen_bits,
    splat_f32,
    splat_i8x16,
    store,
    store_bf16,
    store_f16,
)
from .kv_blocks import BLOCKS, numbers_of, quantiser
from .work_stealing import claim

#: Of single numbers: bytes, and what puts one, puts sixteen, and loads sixteen.
_NUMBERS = {
    "f32": (4, put_f32, store, load_f32),
    "f16": (2, put_f16, store_f16, load_f16),
    "bf16": (2, put_bf16, store_bf16, load_bf16),
}


# --- into the cache ------------------------------------------------------------------------------


@cache
def _put_key(kind: str) -> Any:
    """put(keys, place, x, dim, spare): one head of a token's key, f32[dim]."""
    if kind in _NUMBERS:
        size, put_one, _, _ = _NUMBERS[kind]

        @inline
        def put(keys, place, x, dim, spare):
            for i in range(dim):
                put_one(keys + size * (i * PAGE + place), get_f32(x + 4 * i))

        return put
    blocks = BLOCKS[kind]
    quantise, n_lines, n_bytes, size, has_min = (
        quantiser(blocks), blocks.n_bytes + blocks.n_high, blocks.n_bytes, blocks.size, blocks.has_min
    )  # fmt: skip

    @inline
    def put_groups(keys, place, x, dim, spare):
        for _ in range(dim // KV_GROUP):
            d, m = quantise(x, spare, spare + n_bytes)
            for i in range(n_lines):
                put_i8(keys + i * PAGE + place, get_u8(spare + i))
            put_f16(keys + n_lines * PAGE + 2 * place, d)
            if has_min:
                put_f16(keys + (n_lines + 2) * PAGE + 2 * place, m)
            keys, x = keys + size * PAGE, x + 4 * KV_GROUP

    return put_groups


@cache
def _put_value(kind: str) -> Any:
    """put(values, place, x, dim): one head of a token's value, f32[dim]."""
    if kind in _NUMBERS:
        size, _, put_sixteen, _ = _NUMBERS[kind]

        @inline
        def put(values, place, x, dim):
            stride = (dim + 15) // 16 * 16
            for i in range(0, dim, 16):
                put_sixteen(values + size * (place * stride + i), load_first(x + 4 * i, dim - i))

        return put
    blocks = BLOCKS[kind]
    quantise, size, q_at, has_min = quantiser(blocks), blocks.size, blocks.size - blocks.n_bytes, blocks.has_min
    high_at = q_at - blocks.n_high

    @inline
    def put_groups(values, place, x, dim):
        at = values + place * (dim // KV_GROUP * size)
        for _ in range(dim // KV_GROUP):
            d, m = quantise(x, at + q_at, at + high_at)
            put_f16(at, d)
            if has_min:
                put_f16(at + 2, m)
            at, x = at + size, x + 4 * KV_GROUP

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


@cache
def _number_loader(kind: str) -> Any:
    size, _, _, load_sixteen = _NUMBERS[kind]

    @inline
    def load(rows, following, k, c, width):
        at = size * (k * width + c)
        prefetch_later(following + at)
        return load_sixteen(rows + at)

    return load


@cache
def key_loader(kind: str) -> Any:
    """load(keys, following, k, c, width) → f32x16: dimension k of 16 keys from key c on; width: PAGE.

    Asks for the same of the page whose keys are at `following`.
    """
    if kind in _NUMBERS:
        return _number_loader(kind)
    blocks = BLOCKS[kind]
    numbers, size, n_bytes, d_at = numbers_of(blocks), blocks.size, blocks.n_bytes, blocks.n_bytes + blocks.n_high
    has_fifth, has_min = blocks.bits == 5, blocks.has_min

    @inline
    def load(keys, following, k, c, width):
        group, i = k // KV_GROUP * size * width, k % KV_GROUP
        at, fifth = group + i % n_bytes * width + c, splat_i8x16(0)
        prefetch_later(following + at)
        if has_fifth:
            fifth = shift_right_i8x16(load_i8x16(keys + group + (n_bytes + i // 8) * width + c), i % 8) & splat_i8x16(1)
        value = numbers(keys + at, i // n_bytes, fifth) * load_f16(keys + group + d_at * width + 2 * c)
        return value + load_f16(keys + group + (d_at + 2) * width + 2 * c) if has_min else value

    return load


@cache
def value_loader(kind: str) -> Any:
    """load(values, following, k, c, width) → f32x16: 16 dimensions from c on of value k; else as for keys."""
    if kind in _NUMBERS:
        return _number_loader(kind)
    blocks = BLOCKS[kind]
    numbers, size, n_bytes, has_min = numbers_of(blocks), blocks.size, blocks.n_bytes, blocks.has_min
    q_at, has_fifth = size - n_bytes, blocks.bits == 5

    @inline
    def load(values, following, k, c, width):
        at, i, fifth = (k * width + c) // KV_GROUP * size, c % KV_GROUP, splat_i8x16(0)
        prefetch_later(following + at)
        if has_fifth:
            fifth = sixteen_bits(get_u32(values + at + q_at - 4) >> i)
        value = numbers(values + at + q_at + i % n_bytes, i // n_bytes, fifth) * splat_f32(get_f16(values + at))
        return value + splat_f32(get_f16(values + at + 2)) if has_min else value

    return load

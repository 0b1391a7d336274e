"""Blocks of 32 numbers of a key or value, as GGUF has them: which types of cache there are, into one, and out of it."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from ..formats import iq4
from ..simd import (
    absolute,
    bytes_to_f32,
    have_bit,
    i8x16,
    inline,
    load_f32,
    load_i8x16,
    maximum,
    minimum,
    narrow_i8,
    nearest,
    put_i32,
    rank_among,
    reduce_add,
    reduce_max,
    reduce_min,
    shift_left_i8x16,
    shift_right_i8x16,
    signed_to_f32,
    splat_f32,
    splat_i8x16,
    splat_i32,
    store,
    table16,
    to_i32,
)

_STEPS = iq4.STEPS
_step = table16(_STEPS, i8x16)
_place_of_step = rank_among([(low + high) / 2 for low, high in pairwise(_STEPS)])


class Blocks(NamedTuple):
    """How 32 numbers of a token are kept."""

    bits: int  # of q
    zero: int  # what is taken off q
    has_min: bool = False
    in_steps: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of q, without fifth bits."""
        return 32 if self.bits == 8 else 16

    @property
    def n_high(self) -> int:
        """Bytes of fifth bits."""
        return 4 if self.bits == 5 else 0

    @property
    def size(self) -> int:
        return self.n_bytes + self.n_high + (4 if self.has_min else 2)


BLOCKS = {
    "q8_0": Blocks(8, 0),
    "q5_1": Blocks(5, 0, has_min=True),
    "q5_0": Blocks(5, 16),
    "q4_1": Blocks(4, 0, has_min=True),
    "q4_0": Blocks(4, 8),
    "iq4_nl": Blocks(4, 0, in_steps=True),
}


@cache
def quantiser(blocks: Blocks) -> Any:
    """quantise(x, q, high) → (d, m): 32 floats at x → q, and fifth bits where there are such."""
    if blocks.bits == 8:
        return _quantise_bytes
    if blocks.in_steps:
        return _quantise_steps
    most, zero, has_min, fifth = 2.0**blocks.bits - 1, float(blocks.zero), blocks.has_min, blocks.bits == 5

    @inline
    def quantise(x, q, high):
        first, second = load_f32(x), load_f32(x + 64)
        top, bottom = reduce_max(maximum(first, second)), reduce_min(minimum(first, second))
        if has_min:
            d, m = (top - bottom) / most, bottom
        else:  # the largest of them, by size, becomes q = 0
            d, m = (bottom if -bottom > top else top) / -zero, 0.0
        # what is positive is rounded by cutting off; 8 + 8.5 does not fit
        scale, least, middle = splat_f32(1.0 / d if d != 0.0 else 0.0), splat_f32(m), splat_f32(zero + 0.5)
        first = minimum((first - least) * scale + middle, splat_f32(most))
        second = minimum((second - least) * scale + middle, splat_f32(most))
        low, above, nibble = to_i32(first), to_i32(second), splat_i32(15)
        store(q, narrow_i8((low & nibble) + (above & nibble) * splat_i32(16)))
        if fifth:
            put_i32(high, have_bit(low, 4) | have_bit(above, 4) << 16)
        return d, m

    return quantise


@inline
def _quantise_bytes(x, q, high):
    first, second = load_f32(x), load_f32(x + 64)
    largest = reduce_max(maximum(absolute(first), absolute(second)))
    scale = splat_f32(127.0 / largest if largest > 0.0 else 0.0)
    store(q, narrow_i8(to_i32(nearest(first * scale))))
    store(q + 16, narrow_i8(to_i32(nearest(second * scale))))
    return largest / 127.0, 0.0


@inline
def _quantise_steps(x, q, high):
    """The largest, by size, becomes the first step, and d what then fits all best, weighted by their squares."""
    first, second = load_f32(x), load_f32(x + 64)
    top, bottom = reduce_max(maximum(first, second)), reduce_min(minimum(first, second))
    largest = bottom if -bottom > top else top
    scale = splat_f32(_STEPS[0] / largest if largest != 0.0 else 0.0)
    low, above = _place_of_step(first * scale), _place_of_step(second * scale)
    store(q, narrow_i8(low + above * splat_i32(16)))
    a, b = signed_to_f32(_step(narrow_i8(low))), signed_to_f32(_step(narrow_i8(above)))
    products, squares = first * first * a, second * second * b
    total = reduce_add(products * a + squares * b)
    return reduce_add(products * first + squares * second) / total if total > 0.0 else 0.0, 0.0


@cache
def numbers_of(blocks: Blocks) -> Any:
    """numbers(at, upper, fifth) → f32x16: what q of 16 numbers at an address stand for, before d; upper: in nibbles."""
    zero, in_bytes, in_steps, has_fifth = float(blocks.zero), blocks.bits == 8, blocks.in_steps, blocks.bits == 5

    @inline
    def numbers(at, upper, fifth):
        q = load_i8x16(at)
        if in_bytes:
            return signed_to_f32(q)
        q = shift_right_i8x16(q, 4 * upper) & splat_i8x16(15)
        if in_steps:
            return signed_to_f32(_step(q))
        if has_fifth:
            q = q | shift_left_i8x16(fifth, 4)
        return bytes_to_f32(q) - splat_f32(zero)

    return numbers

"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1: blocks of 32 columns with a half as scale; eight are a unit, two a piece."""

from __future__ import annotations

from typing import Any

from ..simd import (
    as_i8,
    as_i16,
    bits_as_bytes,
    get_u32,
    halves_of_eight,
    inline,
    join_8x32,
    lanes_i16,
    load_i8x16,
    load_i8x32,
    negative,
    pairs_of_eight,
    splat_f32,
    splat_i8,
    splat_i16,
    twice_8x16,
    two_halves,
    two_pairs_of_halves,
)
from ..tensor_types import BY_NAME
from . import Format

_LOW_HIGH = lanes_i16(([0] * 8 + [4] * 8) * 2)


@inline
def nibbles(p, r):
    """16 bytes from each of two addresses → 64 columns: the low nibbles, then the high ones, of each."""
    both = twice_8x16(load_i8x16(p), load_i8x16(r))
    return as_i8(as_i16(both) >> _LOW_HIGH()) & splat_i8(15)


@inline
def _fifth_bits(p, r):
    """32 bits from each of two addresses → 16 or 0 for each of 64 columns."""
    return as_i8(as_i16(bits_as_bytes(get_u32(p) | get_u32(r) << 32)) << splat_i16(4))


def blocks(name: str, quants: Any, *, mins: bool = False, **settings: Any) -> Format:
    """The format of a type whose blocks begin with a scale, and a min where there are such; settings: as Format.of.

    quants(p, r): the 64 bytes q of the blocks at two addresses.
    """
    n = BY_NAME[name].bytes
    eight, eight_pairs = halves_of_eight(n), pairs_of_eight(n)

    @inline
    def all_quants(p):
        q0, q1 = quants(p, p + n), quants(p + 2 * n, p + 3 * n)
        return q0, q1, quants(p + 4 * n, p + 5 * n), quants(p + 6 * n, p + 7 * n)

    @inline
    def unpack(p):
        return all_quants(p), eight(p), splat_f32(0.0)

    @inline
    def unpack_mins(p):
        d, m = eight_pairs(p)
        return all_quants(p), d, negative(m)

    @inline
    def piece(p):
        return (quants(p, p + n),), two_halves(p, p + n), splat_f32(0.0)

    @inline
    def piece_mins(p):
        d, m = two_pairs_of_halves(p, p + n)
        return (quants(p, p + n),), d, negative(m)

    unpackers = (unpack_mins, piece_mins) if mins else (unpack, piece)
    return Format.of(name, unpackers[0], group=32, piece=unpackers[1], **settings)


@inline
def _q4_0(p, r):
    return nibbles(p + 2, r + 2)


@inline
def _q4_1(p, r):
    return nibbles(p + 4, r + 4)


@inline
def _q5_0(p, r):
    return nibbles(p + 6, r + 6) | _fifth_bits(p + 2, r + 2)


@inline
def _q5_1(p, r):
    return nibbles(p + 8, r + 8) | _fifth_bits(p + 4, r + 4)


@inline
def _q8_0(p, r):
    return join_8x32(load_i8x32(p + 2), load_i8x32(r + 2)) ^ splat_i8(128)


@inline
def _q8_1(p, r):
    return join_8x32(load_i8x32(p + 4), load_i8x32(r + 4)) ^ splat_i8(128)


Q4_0 = blocks("Q4_0", _q4_0, offset=8, bits=4)
Q4_1 = blocks("Q4_1", _q4_1, bits=4, mins=True)
Q5_0 = blocks("Q5_0", _q5_0, offset=16, bits=5)
Q5_1 = blocks("Q5_1", _q5_1, bits=5, mins=True)
Q8_0 = blocks("Q8_0", _q8_0, offset=128, bits=8)
Q8_1 = blocks("Q8_1", _q8_1, offset=128, bits=8)

"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 columns with a half-precision scale, taken two at a time."""

from __future__ import annotations

from ..simd import (
    as_i8,
    as_i16,
    bits_as_bytes,
    get_u32,
    inline,
    join_8x32,
    lanes_i16,
    load_i8x16,
    load_i8x32,
    negative,
    splat_f32,
    splat_i8,
    splat_i16,
    twice_8x16,
    two_halves,
    two_pairs_of_halves,
)
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


@inline
def _unpack_q4_0(p):
    return (nibbles(p + 2, p + 20),), two_halves(p, p + 18), splat_f32(0.0)


@inline
def _unpack_q4_1(p):
    d, m = two_pairs_of_halves(p, p + 20)
    return (nibbles(p + 4, p + 24),), d, negative(m)


@inline
def _unpack_q5_0(p):
    q = nibbles(p + 6, p + 28) | _fifth_bits(p + 2, p + 24)
    return (q,), two_halves(p, p + 22), splat_f32(0.0)


@inline
def _unpack_q5_1(p):
    q = nibbles(p + 8, p + 32) | _fifth_bits(p + 4, p + 28)
    d, m = two_pairs_of_halves(p, p + 24)
    return (q,), d, negative(m)


@inline
def _unpack_q8_0(p):
    q = join_8x32(load_i8x32(p + 2), load_i8x32(p + 36)) ^ splat_i8(128)
    return (q,), two_halves(p, p + 34), splat_f32(0.0)


Q4_0 = Format(64, 36, _unpack_q4_0, group=32, offset=8, bits=4)
Q4_1 = Format(64, 40, _unpack_q4_1, group=32, bits=4)
Q5_0 = Format(64, 44, _unpack_q5_0, group=32, offset=16, bits=5)
Q5_1 = Format(64, 48, _unpack_q5_1, group=32, bits=5)
Q8_0 = Format(64, 68, _unpack_q8_0, group=32, offset=128, bits=8)

"""Q1_0, Q2_0, TQ1_0 and TQ2_0: columns of one or two bits, or a digit to base 3, all but Q1_0's in steps of a scale."""

from __future__ import annotations

from ..simd import (
    bits_as_bytes,
    get_f16,
    get_i64,
    i8x32,
    inline,
    join_8x32,
    load_i8x16,
    load_i8x32,
    quarters,
    scales_of,
    shuffle,
    shuffle2,
    splat_f32,
    thirds,
    times,
    twice_8x32,
    two_halves,
)
from . import Format
from .k_quants import pairs_of_bits

# --- Q1_0: a bit is -1 or 1; Q2_0: -1, 0, 1 or 2 ---------------------------------------------------

_two_scales, _four_scales = scales_of(2, 18), scales_of(4, 18)


@inline
def _signs(p):
    bits = bits_as_bytes(get_i64(p))
    return bits + bits


@inline
def _unpack_q1_0(p):
    return (_signs(p + 2), _signs(p + 10), _signs(p + 20), _signs(p + 28)), _two_scales(p), splat_f32(0.0)


@inline
def _columns_q2_0(p):
    return quarters(load_i8x16(p + 2))


@inline
def _unpack_q2_0(p):
    q = _columns_q2_0(p), _columns_q2_0(p + 18), _columns_q2_0(p + 36), _columns_q2_0(p + 54)
    return q, _four_scales(p), splat_f32(0.0)


@inline
def _piece_q2_0(p):
    return (_columns_q2_0(p),), two_halves(p, p), splat_f32(0.0)


# --- TQ1_0: five digits of a fraction to base 3 in a byte, of 32 bytes, then of 16, then four of 4; TQ2_0 -----------

_1_3, _9_27 = times([1] * 32 + [3] * 32), times([9] * 32 + [27] * 32)
_81_1_3 = times([81] * 32 + [1] * 16 + [3] * 16)
_9_27_81 = times([9] * 16 + [27] * 16 + [81] * 16 + [3 ** (i // 4) for i in range(16)])
_twice = shuffle(i8x32, [*range(16)] * 2)
_and_last = shuffle2(i8x32, [*range(16), *[16 + i for i in (10, 11, 12, 13)] * 4])


@inline
def _unpack_tq1_0(p):
    first, second = twice_8x32(load_i8x32(p)), load_i8x16(p + 32)
    third = join_8x32(load_i8x32(p), _twice(second))
    fourth = join_8x32(_twice(second), _and_last(second, load_i8x16(p + 38)))
    q = thirds(_1_3(first)), thirds(_9_27(first)), thirds(_81_1_3(third)), thirds(_9_27_81(fourth))
    return q, splat_f32(get_f16(p + 52)), splat_f32(0.0)


@inline
def _unpack_tq2_0(p):
    return pairs_of_bits(p), splat_f32(get_f16(p + 64)), splat_f32(0.0)


Q1_0 = Format.of("Q1_0", _unpack_q1_0, group=32, offset=1, bits=2, largest=2)
Q2_0 = Format.of("Q2_0", _unpack_q2_0, group=32, offset=1, bits=2, piece=_piece_q2_0)
TQ1_0 = Format.of("TQ1_0", _unpack_tq1_0, group=32, offset=1, bits=2, largest=2)
TQ2_0 = Format.of("TQ2_0", _unpack_tq2_0, group=32, offset=1, bits=2)

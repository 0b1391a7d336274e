"""Q2_K … Q6_K: blocks of 256 columns with 8 or 16 groups, whose scales are themselves quantised; Q8_K: one scale."""

from __future__ import annotations

from ..simd import (
    as_i8,
    as_i16,
    bytes_to_f32,
    get_f16,
    get_f32,
    get_u32,
    inline,
    lanes_i16,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    paired_bytes,
    signed_to_f32,
    sixteen_bytes,
    splat_f32,
    splat_i8,
    splat_i16,
    twice_8x32,
    weave_bytes,
)
from . import Format


def _shifts(low: int, high: int):
    """Shift counts: `low` for the first 32 bytes, `high` for the others."""
    return lanes_i16([low] * 16 + [high] * 16)


_0_1, _2_3, _4_5, _6_7 = (_shifts(i, i + 1) for i in (0, 2, 4, 6))
_0_2, _4_6, _0_4 = _shifts(0, 2), _shifts(4, 6), _shifts(0, 4)


@inline
def _bits(q, shifts, mask):
    """The bits under `mask` of each byte of q, after shifting right."""
    return as_i8(as_i16(q) >> shifts) & splat_i8(mask)


@inline
def _raise(q, n):
    """Shift bytes left by n bits; none of them may lose any."""
    return as_i8(as_i16(q) << splat_i16(n))


@inline
def _scales_and_mins(address):
    """Q4_K's and Q5_K's: d, dmin, and 12 bytes that hold eight scales and eight mins of 6 bits."""
    a, b, c = get_u32(address + 4), get_u32(address + 8), get_u32(address + 12)
    scales = (a & 0x3F3F3F3F) | ((c & 0x0F0F0F0F) | ((a >> 2) & 0x30303030)) << 32
    mins = (b & 0x3F3F3F3F) | (((c >> 4) & 0x0F0F0F0F) | ((b >> 2) & 0x30303030)) << 32
    return (
        bytes_to_f32(paired_bytes(scales)) * splat_f32(get_f16(address)),
        bytes_to_f32(paired_bytes(mins)) * splat_f32(get_f16(address + 2)),
    )


@inline
def _nibbles(address):
    """32 bytes → 64 columns: the low nibbles, then the high ones."""
    return _bits(twice_8x32(load_i8x32(address)), _0_4(), 15)


@inline
def _unpack_q4_k(p):
    scales, mins = _scales_and_mins(p)
    return (_nibbles(p + 16), _nibbles(p + 48), _nibbles(p + 80), _nibbles(p + 112)), scales, mins


@inline
def _unpack_q5_k(p):
    scales, mins = _scales_and_mins(p)
    high = twice_8x32(load_i8x32(p + 16))
    q = (
        _nibbles(p + 48) | _raise(_bits(high, _0_1(), 1), 4),
        _nibbles(p + 80) | _raise(_bits(high, _2_3(), 1), 4),
        _nibbles(p + 112) | _raise(_bits(high, _4_5(), 1), 4),
        _nibbles(p + 144) | _raise(_bits(high, _6_7(), 1), 4),
    )
    return q, scales, mins


@inline
def _unpack_q6_k(p):
    scales = signed_to_f32(weave_bytes(load_i8x16(p + 192))) * splat_f32(get_f16(p + 208))
    low, high = (load_i8x64(p), load_i8x64(p + 64)), (load_i8x32(p + 128), load_i8x32(p + 160))
    above0, above1 = twice_8x32(high[0]), twice_8x32(high[1])
    four = splat_i16(4)
    q = (
        (low[0] & splat_i8(15)) | _raise(_bits(above0, _0_2(), 3), 4),
        _bits(low[0], four, 15) | _raise(_bits(above0, _4_6(), 3), 4),
        (low[1] & splat_i8(15)) | _raise(_bits(above1, _0_2(), 3), 4),
        _bits(low[1], four, 15) | _raise(_bits(above1, _4_6(), 3), 4),
    )
    return q, scales, splat_f32(0.0)


@inline
def _unpack_q3_k(p):
    a, b, t = get_u32(p + 96), get_u32(p + 100), get_u32(p + 104)
    first = (a & 0x0F0F0F0F) | (t & 0x03030303) << 4
    second = (b & 0x0F0F0F0F) | ((t >> 2) & 0x03030303) << 4
    third = ((a >> 4) & 0x0F0F0F0F) | ((t >> 4) & 0x03030303) << 4
    fourth = ((b >> 4) & 0x0F0F0F0F) | ((t >> 6) & 0x03030303) << 4
    sixteen = bytes_to_f32(sixteen_bytes(first | second << 32, third | fourth << 32))
    scales = (sixteen - splat_f32(32.0)) * splat_f32(get_f16(p + 108))
    high, q0, q1 = twice_8x32(load_i8x32(p)), twice_8x32(load_i8x32(p + 32)), twice_8x32(load_i8x32(p + 64))
    q = (
        _bits(q0, _0_2(), 3) | _raise(_bits(high, _0_1(), 1), 2),
        _bits(q0, _4_6(), 3) | _raise(_bits(high, _2_3(), 1), 2),
        _bits(q1, _0_2(), 3) | _raise(_bits(high, _4_5(), 1), 2),
        _bits(q1, _4_6(), 3) | _raise(_bits(high, _6_7(), 1), 2),
    )
    return q, scales, splat_f32(0.0)


@inline
def pairs_of_bits(p):
    """64 bytes → 256 columns: of each 32 bytes the lowest two bits, then the next …"""
    q0, q1 = twice_8x32(load_i8x32(p)), twice_8x32(load_i8x32(p + 32))
    return _bits(q0, _0_2(), 3), _bits(q0, _4_6(), 3), _bits(q1, _0_2(), 3), _bits(q1, _4_6(), 3)


@inline
def _unpack_q2_k(p):
    a, b = get_u32(p) | get_u32(p + 4) << 32, get_u32(p + 8) | get_u32(p + 12) << 32
    low = 0x0F0F0F0F0F0F0F0F
    scales = bytes_to_f32(sixteen_bytes(a & low, b & low)) * splat_f32(get_f16(p + 80))
    mins = bytes_to_f32(sixteen_bytes((a >> 4) & low, (b >> 4) & low)) * splat_f32(get_f16(p + 82))
    return pairs_of_bits(p + 16), scales, mins


@inline
def _unpack_q8_k(p):
    first, second = load_i8x64(p + 4) ^ splat_i8(128), load_i8x64(p + 68) ^ splat_i8(128)
    q = first, second, load_i8x64(p + 132) ^ splat_i8(128), load_i8x64(p + 196) ^ splat_i8(128)
    return q, splat_f32(get_f32(p)), splat_f32(0.0)


Q2_K = Format.of("Q2_K", _unpack_q2_k, group=16, bits=2)
Q3_K = Format.of("Q3_K", _unpack_q3_k, group=16, offset=4, bits=3)
Q4_K = Format.of("Q4_K", _unpack_q4_k, group=32, bits=4)
Q5_K = Format.of("Q5_K", _unpack_q5_k, group=32, bits=5)
Q6_K = Format.of("Q6_K", _unpack_q6_k, group=16, offset=32, bits=6)
Q8_K = Format.of("Q8_K", _unpack_q8_k, group=32, offset=128, bits=8)

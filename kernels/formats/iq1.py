"""IQ1_S and IQ1_M: points of eight columns of -1, 0 and 1, all moved by an eighth, up or down, and scales of 3 bits."""

from __future__ import annotations

import numpy as np

from .. import codebooks
from ..simd import (
    bytes_to_f32,
    codebook,
    eight_fields,
    get_f16,
    get_i64,
    get_u32,
    half_of,
    inline,
    paired_bytes,
    plus_where,
    splat_f32,
    woven_threes,
)
from . import Format

_LEVELS = codebooks.points("IQ1")
_s = codebook("IQ1_S", _LEVELS, range(8), (0, 3, 6, 9, 16, 19, 22, 25))
_scales, _down = eight_fields(12, 3), eight_fields(15, 1)
# IQ1_M moves each eight columns by themselves: q counts eighths, from -9 of them
_m = codebook("IQ1_M", (8 * _LEVELS).astype(np.uint8), range(8), range(0, 32, 4))
_moved = plus_where(range(3, 32, 4), 2)


@inline
def _columns_s(p, i):
    return _s(p + 2 + 8 * i, get_u32(p + 34 + 4 * i))


@inline
def _unpack_s(p):
    numbers = bytes_to_f32(paired_bytes(_scales(p + 34)))
    scales = (numbers + numbers + splat_f32(1.0)) * splat_f32(get_f16(p))
    down = bytes_to_f32(paired_bytes(_down(p + 34)))
    q = _columns_s(p, 0), _columns_s(p, 1), _columns_s(p, 2), _columns_s(p, 3)
    return q, scales, scales * (splat_f32(0.25) * down + splat_f32(0.875))


@inline
def _columns_m(p, i):
    more = get_u32(p + 32 + 4 * i)
    return _moved(_m(p + 8 * i, more), more)


@inline
def _unpack_m(p):
    x = get_i64(p + 48)
    d = half_of((x >> 12 & 0xF) | (x >> 24 & 0xF0) | (x >> 36 & 0xF00) | (x >> 48 & 0xF000))
    numbers = bytes_to_f32(woven_threes(x))
    scales = (numbers + numbers + splat_f32(1.0)) * splat_f32(0.125 * d)
    q = _columns_m(p, 0), _columns_m(p, 1), _columns_m(p, 2), _columns_m(p, 3)
    return q, scales, splat_f32(0.0)


IQ1_S = Format.of("IQ1_S", _unpack_s, group=32, bits=2, largest=2)
IQ1_M = Format.of("IQ1_M", _unpack_m, group=16, offset=9, bits=5, largest=18)

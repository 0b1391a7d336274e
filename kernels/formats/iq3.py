"""IQ3_XXS and IQ3_S: points of four columns out of a codebook of sizes, with signs, and scales of 4 bits."""

from __future__ import annotations

from ..simd import (
    bytes_to_f32,
    codebook,
    eight_sevens,
    get_f16,
    get_i64,
    get_u16,
    get_u32,
    inline,
    negate_where,
    nibbles_in_order,
    paired_bytes,
    splat_f32,
)
from . import Format
from .iq2 import points

_XXS, _S = 62, 15  # the largest sizes
_signed_xxs, _signed_s = negate_where(2 * _XXS), negate_where(2 * _S)
_xxs = codebook("IQ3_XXS", points("IQ3_XXS"), range(16))
_s = codebook("IQ3_S", points("IQ3_S"), range(16), range(16))


@inline
def _columns_xxs(p, i):
    return _signed_xxs(_xxs(p + 2 + 16 * i, 0), eight_sevens(get_i64(p + 66 + 8 * i)))


@inline
def _top_nibbles(p):
    """Those of each 32 of 64 bits, as bytes."""
    return get_u32(p) >> 28 | get_u32(p + 4) >> 28 << 8


@inline
def _unpack_xxs(p):
    numbers = _top_nibbles(p + 66) | _top_nibbles(p + 74) << 16
    numbers |= _top_nibbles(p + 82) << 32 | _top_nibbles(p + 90) << 48
    scales = (bytes_to_f32(paired_bytes(numbers)) + splat_f32(0.5)) * splat_f32(0.5 * get_f16(p))
    q = _columns_xxs(p, 0), _columns_xxs(p, 1), _columns_xxs(p, 2), _columns_xxs(p, 3)
    return q, scales, splat_f32(0.0)


@inline
def _columns_s(p, i):
    return _signed_s(_s(p + 2 + 16 * i, get_u16(p + 66 + 2 * i)), get_i64(p + 74 + 8 * i))


@inline
def _unpack_s(p):
    numbers = bytes_to_f32(paired_bytes(nibbles_in_order(get_u32(p + 106))))
    scales = (numbers + numbers + splat_f32(1.0)) * splat_f32(get_f16(p))
    q = _columns_s(p, 0), _columns_s(p, 1), _columns_s(p, 2), _columns_s(p, 3)
    return q, scales, splat_f32(0.0)


IQ3_XXS = Format.of("IQ3_XXS", _unpack_xxs, group=32, offset=_XXS, bits=7, largest=2 * _XXS)
IQ3_S = Format.of("IQ3_S", _unpack_s, group=32, offset=_S, bits=5, largest=2 * _S)

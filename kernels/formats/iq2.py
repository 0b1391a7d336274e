"""IQ2_XXS, IQ2_XS and IQ2_S: points of eight columns out of a codebook of sizes, with signs, and scales of 4 bits.

IQ2_XXS and IQ2_XS have seven signs for each eight columns; an even number of all eight is negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import codebooks
from ..simd import (
    bytes_to_f32,
    codebook,
    eight_fields,
    eight_sevens,
    get_f16,
    get_i64,
    get_u16,
    get_u32,
    inline,
    negate_where,
    paired_bytes,
    splat_f32,
    with_parity,
    woven_nibbles,
)
from . import Format

_OFFSET = 43  # the largest size
_signed = negate_where(2 * _OFFSET)
_SETTINGS: dict[str, Any] = {"offset": _OFFSET, "bits": 7, "largest": 2 * _OFFSET}


def points(name: str) -> np.ndarray:
    """u8: the points of a codebook of sizes, each plus the largest of them."""
    steps = np.array(codebooks.STEPS[name])
    return (steps + steps.max()).astype(np.uint8)[codebooks.points(name)]


_xxs = codebook("IQ2_XXS", points("IQ2_XXS"), (0, 1, 2, 3, 8, 9, 10, 11))
_xs = codebook("IQ2_XS", points("IQ2_XS"), range(0, 16, 2))
_s = codebook("IQ2_S", points("IQ2_S"), range(8), range(0, 16, 2))
_signs = eight_fields(9, 7)


@inline
def _scales(p, numbers):
    return (bytes_to_f32(numbers) + splat_f32(0.5)) * splat_f32(0.25 * get_f16(p))


@inline
def _columns_xxs(p):
    return _signed(_xxs(p, 0), eight_sevens(get_u32(p + 4) | get_u32(p + 12) << 32))


@inline
def _top_nibbles(p):
    """Those of the second 32 bits at an address, and of the fourth, as bytes."""
    return get_u32(p + 4) >> 28 | get_u32(p + 12) >> 28 << 8


@inline
def _unpack_xxs(p):
    numbers = _top_nibbles(p + 2) | _top_nibbles(p + 18) << 16
    numbers |= _top_nibbles(p + 34) << 32 | _top_nibbles(p + 50) << 48
    q = _columns_xxs(p + 2), _columns_xxs(p + 18), _columns_xxs(p + 34), _columns_xxs(p + 50)
    return q, _scales(p, paired_bytes(numbers)), splat_f32(0.0)


@inline
def _columns_xs(p):
    return _signed(_xs(p, 0), with_parity(_signs(p)))


@inline
def _unpack_xs(p):
    q = _columns_xs(p + 2), _columns_xs(p + 18), _columns_xs(p + 34), _columns_xs(p + 50)
    return q, _scales(p, woven_nibbles(get_i64(p + 66))), splat_f32(0.0)


@inline
def _columns_s(p, i):
    return _signed(_s(p + 2 + 8 * i, get_u16(p + 66 + 2 * i)), get_i64(p + 34 + 8 * i))


@inline
def _unpack_s(p):
    q = _columns_s(p, 0), _columns_s(p, 1), _columns_s(p, 2), _columns_s(p, 3)
    return q, _scales(p, woven_nibbles(get_i64(p + 74))), splat_f32(0.0)


IQ2_XXS = Format.of("IQ2_XXS", _unpack_xxs, group=32, **_SETTINGS)
IQ2_XS = Format.of("IQ2_XS", _unpack_xs, group=16, **_SETTINGS)
IQ2_S = Format.of("IQ2_S", _unpack_s, group=16, **_SETTINGS)

"""MXFP4 and NVFP4: floats of 4 bits, by a table of their doubles, with scales of 8 bits for 32 columns, or for 16."""

from __future__ import annotations

from ..simd import (
    as_i8,
    as_i16,
    first_lanes,
    four_bytes,
    from_e4m3,
    from_half_e8m0,
    get_u8,
    get_u32,
    i8x64,
    inline,
    lanes_i16,
    load_i8x32,
    paired_bytes,
    shuffle,
    sixteen_bytes,
    splat_f32,
    splat_i8,
    table16,
)
from . import Format
from .blocks32 import nibbles

_OFFSET = 12
_step = table16([_OFFSET + sign * size for sign in (1, -1) for size in (0, 1, 2, 3, 4, 6, 8, 12)])

# --- MXFP4: blocks of 32 columns, whose scale is a power of two ----------------------------------------------------

_ROW = 17


@inline
def _columns_mxfp4(p):
    return _step(nibbles(p + 1, p + _ROW + 1))


@inline
def _exponents(p):
    """Those of four blocks, as bytes."""
    return get_u8(p) | get_u8(p + _ROW) << 8 | get_u8(p + 2 * _ROW) << 16 | get_u8(p + 3 * _ROW) << 24


@inline
def _unpack_mxfp4(p):
    scales = from_half_e8m0(paired_bytes(_exponents(p) | _exponents(p + 4 * _ROW) << 32))
    q = (
        _columns_mxfp4(p), _columns_mxfp4(p + 2 * _ROW), _columns_mxfp4(p + 4 * _ROW), _columns_mxfp4(p + 6 * _ROW)
    )  # fmt: skip
    return q, scales, splat_f32(0.0)


@inline
def _piece_mxfp4(p):
    scales = from_half_e8m0(four_bytes(get_u8(p) * 0x0101 | get_u8(p + _ROW) * 0x01010000))
    return (_columns_mxfp4(p),), first_lanes(scales, 4, 0.0), splat_f32(0.0)


# --- NVFP4: blocks of 64 columns, with four scales of E4M3 ---------------------------------------------------------


_eights_twice, _LOW_HIGH = shuffle(i8x64, [i // 16 * 8 + i % 8 for i in range(64)]), lanes_i16(([0] * 4 + [4] * 4) * 4)


@inline
def _columns_nvfp4(p):
    """Of each eight bytes the low nibbles, then the high ones."""
    return _step(as_i8(as_i16(_eights_twice(load_i8x32(p + 4))) >> _LOW_HIGH()) & splat_i8(15))


@inline
def _unpack_nvfp4(p):
    first, second = get_u32(p) | get_u32(p + 36) << 32, get_u32(p + 72) | get_u32(p + 108) << 32
    scales = from_e4m3(sixteen_bytes(first, second)) * splat_f32(0.5)
    q = _columns_nvfp4(p), _columns_nvfp4(p + 36), _columns_nvfp4(p + 72), _columns_nvfp4(p + 108)
    return q, scales, splat_f32(0.0)


@inline
def _piece_nvfp4(p):
    scales = from_e4m3(four_bytes(get_u32(p))) * splat_f32(0.5)
    return (_columns_nvfp4(p),), first_lanes(scales, 4, 0.0), splat_f32(0.0)


MXFP4 = Format.of("MXFP4", _unpack_mxfp4, group=32, offset=_OFFSET, bits=5, piece=_piece_mxfp4, largest=2 * _OFFSET)
NVFP4 = Format.of("NVFP4", _unpack_nvfp4, group=16, offset=_OFFSET, bits=5, piece=_piece_nvfp4, largest=2 * _OFFSET)

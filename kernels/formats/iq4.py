"""IQ4_NL and IQ4_XS: nibbles that index a table of sixteen uneven steps."""

from __future__ import annotations

from ..simd import bytes_to_f32, get_f16, get_u16, get_u32, inline, nibbles_in_order, paired_bytes, splat_f32, table16
from . import Format
from .blocks32 import blocks, nibbles

STEPS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_step = table16([step + 128 for step in STEPS])


@inline
def _iq4_nl(p, r):
    return _step(nibbles(p + 2, r + 2))


@inline
def _unpack_iq4_xs(p):
    # eight scales of 6 bits: spread 4-bit and 2-bit fields over the bytes of an integer
    low, high = nibbles_in_order(get_u32(p + 4)), get_u16(p + 2)
    high = (high | high << 24) & 0x000000FF000000FF
    high = (high | high << 12) & 0x000F000F000F000F
    high = (high | high << 6) & 0x0303030303030303
    scales = (bytes_to_f32(paired_bytes(low | high << 4)) - splat_f32(32.0)) * splat_f32(get_f16(p))
    q = (
        _step(nibbles(p + 8, p + 24)),
        _step(nibbles(p + 40, p + 56)),
        _step(nibbles(p + 72, p + 88)),
        _step(nibbles(p + 104, p + 120)),
    )
    return q, scales, splat_f32(0.0)


IQ4_NL = blocks("IQ4_NL", _iq4_nl, offset=128, bits=8, largest=241)
IQ4_XS = Format.of("IQ4_XS", _unpack_iq4_xs, group=32, offset=128, bits=8, largest=241)

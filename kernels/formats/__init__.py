"""GGUF tensor types: how a block of each becomes bytes, scales and mins in registers.

Every integer type is affine in groups of 16 or 32 columns: w = scale·(q - offset) - min, q an unsigned byte.
A type needs only `unpack`; dequantising and both products are written once (`cpu/`), for all of them.
Layouts: the GGUF specification and ggml's block definitions. Only the compiler's process imports these.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ..layout import FLOATS


class Format(NamedTuple):
    """A tensor type, as kernels see it: units of 256 columns, for float types of 16, side by side in a row."""

    columns: int  # columns of one unit
    n_bytes: int  # bytes of one unit
    #: unpack(address) -> (4 vectors of 64 bytes q, scales[f32x16], mins[f32x16]), the scales and mins one for each
    #: 16 columns, in woven order (layout.py). For float types: unpack(address) -> f32x16.
    unpack: Callable[[int], Any]
    group: int = 0  # columns that share a scale: 16 or 32; 0 for float types
    offset: int = 0
    bits: int = 0  # of q
    #: The same for 64 columns, in types whose rows may end so: one vector, scales and mins on lanes 0 to 3, then zeros.
    piece: Callable[[int], Any] | None = None

    @property
    def has_mins(self) -> bool:
        return bool(self.group) and not self.offset

    @property
    def is_float(self) -> bool:
        return not self.group


def get(name: str) -> Format:
    """The format of a GGUF tensor type, such as "Q4_K"."""
    family = (
        "floats" if name in FLOATS else "k_quants" if name.endswith("_K") else "iq4" if "IQ" in name else "blocks32"
    )
    return getattr(importlib.import_module(f"{__name__}.{family}"), name)

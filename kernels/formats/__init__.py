"""GGUF tensor types: how a block of each becomes bytes, scales and mins in registers.

Every integer type is affine in groups of 16 or 32 columns: w = scale·(q - offset) - min, q an unsigned byte.
A type needs only `unpack`; dequantising and both products are written once (`cpu/`), for all of them.
Layouts: the GGUF specification and ggml's block definitions. Only the compiler's process imports these.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ..tensor_types import BY_NAME


class Format(NamedTuple):
    """A tensor type, as kernels see it: units of 256 columns, of single numbers 16, side by side in a row."""

    columns: int  # columns of one unit
    n_bytes: int  # bytes of one unit
    #: unpack(address) -> (4 vectors of 64 bytes q, scales[f32x16], mins[f32x16]), the scales and mins one for each
    #: 16 columns, in woven order (layout.py). For single numbers: unpack(address) -> f32x16.
    unpack: Callable[[int], Any]
    group: int = 0  # columns that share a scale: 16 or 32; 0 for single numbers
    offset: int = 0
    bits: int = 0  # of q
    #: The same for 64 columns, in types whose rows may end so: one vector, scales and mins on lanes 0 to 3, then zeros.
    piece: Callable[[int], Any] | None = None
    largest: int = 0  # q that there is
    block: int = 0  # columns that a row has a multiple of

    @classmethod
    def of(cls, name: str, unpack: Callable[[int], Any], **settings: Any) -> Format:
        """The format of a tensor type; settings: as the fields are, `largest` where no q has all its bits set."""
        _, block, n_bytes, _ = BY_NAME[name]
        columns = 256 if block > 1 else 16
        settings.setdefault("largest", 2 ** settings.get("bits", 0) - 1)
        return cls(columns, columns // block * n_bytes, unpack, block=block, **settings)

    @property
    def has_mins(self) -> bool:
        return bool(self.group) and not self.offset

    @property
    def is_float(self) -> bool:
        return not self.group


def get(name: str) -> Format:
    """The format of a GGUF tensor type, such as "Q4_K"."""
    return getattr(importlib.import_module(f"{__name__}.{BY_NAME[name].family}"), name)

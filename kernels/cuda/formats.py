"""How weights lie on a GPU: the blocks of a GGUF type split into planes, each field for all blocks by itself.

formats.cuh reads them. The planes of a matrix follow each other in one piece of memory, those with more bytes of a
block first, so that every one begins where the reads of its fields are aligned.
"""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """A block of `columns` in `n_bytes`; `planes`: (first byte, bytes) of each field, in the planes' order."""

    columns: int
    n_bytes: int
    unit: int  # columns that a lane takes at a time
    planes: tuple[tuple[int, int], ...]


FORMATS = {
    "Q4_0": Format(32, 18, 32, ((2, 16), (0, 2))),
    "Q4_1": Format(32, 20, 32, ((4, 16), (0, 4))),
    "Q5_0": Format(32, 22, 32, ((6, 16), (2, 4), (0, 2))),
    "Q5_1": Format(32, 24, 32, ((8, 16), (4, 4), (0, 4))),
    "Q8_0": Format(32, 34, 32, ((2, 32), (0, 2))),
    "Q2_K": Format(256, 84, 64, ((16, 64), (0, 16), (80, 4))),
    "Q3_K": Format(256, 110, 64, ((32, 64), (0, 32), (96, 12), (108, 2))),
    "Q4_K": Format(256, 144, 64, ((16, 128), (0, 16))),
    "Q5_K": Format(256, 176, 64, ((48, 128), (16, 32), (0, 16))),
    "Q6_K": Format(256, 210, 64, ((0, 128), (128, 64), (192, 16), (208, 2))),
    "IQ4_NL": Format(32, 18, 32, ((2, 16), (0, 2))),
    "IQ4_XS": Format(256, 136, 64, ((8, 128), (0, 8))),
    "F16": Format(32, 64, 32, ((0, 64),)),  # what all float types become, rows filled up with zeros
}

"""How weights lie on a GPU: in tiles of 16 rows, each field of a type's blocks in a plane by itself.

A tile has STEP columns, a unit of STEP/4 for each of four lanes, of each row. formats.cuh reads it: what the lanes of
a warp read at the same time lies side by side. Planes follow each other in one piece of memory, those with more bytes
of a block first, so that each begins where the reads of its fields are aligned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..tensor_types import BY_NAME

TILE_ROWS = 16


class Plane(NamedTuple):
    """A field of a block: its first byte, and how many.

    Where a lane reads `pieces` pieces of 16 bytes of it, a tile's row of it is `outer` × pieces × the rest, and lies
    piece by piece.
    """

    first: int
    size: int
    outer: int = 1
    pieces: int = 1


class TileFormat(NamedTuple):
    """A type: a block of `columns` takes n_bytes in a file; a tile has `step` columns.

    in_runs: a lane's unit is no run of columns, but a half of each of four (formats.cuh, Runs256).
    """

    columns: int
    n_bytes: int
    step: int
    planes: tuple[Plane, ...]
    in_runs: bool = False

    @property
    def order(self) -> tuple[int, bool]:
        """What the order depends on in which a warp has the columns of a tile."""
        return self.step, self.in_runs

    @property
    def row_bytes(self) -> int:
        """Bytes of a tile's row, in all planes."""
        return self.step // self.columns * sum(plane.size for plane in self.planes)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile, in all planes."""
        return TILE_ROWS * self.row_bytes


def _of(name: str, step: int, *planes: Plane, in_runs: bool = False) -> tuple[str, TileFormat]:
    kind = BY_NAME[name]
    return name, TileFormat(kind.columns, kind.bytes, step, planes, in_runs)


FORMATS = dict([
    _of("Q4_0", 128, Plane(2, 16), Plane(0, 2)),
    _of("Q4_1", 128, Plane(4, 16), Plane(0, 4)),
    _of("Q5_0", 128, Plane(6, 16), Plane(2, 4), Plane(0, 2)),
    _of("Q5_1", 128, Plane(8, 16), Plane(4, 4), Plane(0, 4)),
    _of("Q8_0", 128, Plane(2, 32, 4, 2), Plane(0, 2)),
    _of("Q8_1", 128, Plane(4, 32, 4, 2), Plane(0, 2)),
    _of("Q2_K", 256, Plane(16, 64), Plane(0, 16), Plane(80, 4), in_runs=True),
    _of("Q3_K", 256, Plane(32, 64), Plane(0, 32), Plane(96, 12), Plane(108, 2), in_runs=True),
    _of("Q4_K", 256, Plane(16, 128, 4, 2), Plane(0, 16)),
    _of("Q5_K", 256, Plane(48, 128, 4, 2), Plane(16, 32), Plane(0, 16)),
    _of("Q6_K", 256, Plane(0, 128, 2, 2), Plane(128, 64), Plane(192, 16), Plane(208, 2), in_runs=True),
    _of("Q8_K", 256, Plane(4, 256, 4, 4), Plane(0, 4)),
    _of("IQ4_NL", 128, Plane(2, 16), Plane(0, 2)),
    _of("IQ4_XS", 256, Plane(8, 128, 4, 2), Plane(0, 8)),
    _of("IQ3_XXS", 256, Plane(2, 64), Plane(66, 32), Plane(0, 2)),
    _of("IQ3_S", 256, Plane(2, 64), Plane(74, 36), Plane(66, 8), Plane(0, 2)),
    _of("IQ2_XXS", 256, Plane(2, 64), Plane(0, 2)),
    _of("IQ2_XS", 256, Plane(2, 64), Plane(66, 8), Plane(0, 2)),
    _of("IQ2_S", 256, Plane(2, 32), Plane(34, 32), Plane(66, 16), Plane(0, 2)),
    _of("IQ1_S", 256, Plane(2, 32), Plane(34, 16), Plane(0, 2)),
    _of("IQ1_M", 256, Plane(0, 32), Plane(32, 16), Plane(48, 8)),
    _of("Q1_0", 256, Plane(2, 16), Plane(0, 2)),
    _of("Q2_0", 256, Plane(2, 16), Plane(0, 2)),
    _of("TQ1_0", 256, Plane(0, 48), Plane(48, 6)),
    _of("TQ2_0", 256, Plane(0, 64), Plane(64, 2), in_runs=True),
    _of("MXFP4", 128, Plane(1, 16), Plane(0, 1)),
    _of("NVFP4", 256, Plane(4, 32, 4, 2), Plane(0, 4)),
    ("F16", TileFormat(32, 64, 128, (Plane(0, 64, 4, 4),))),  # what single numbers become
])  # fmt: skip
#: Types that become halves, as retile.cu calls them.
RETILED = {
    "F64": "double", "F32": "float", "F16": "half_t", "BF16": "bfloat", "I8": "signed char", "I16": "short",
    "I32": "int", "I64": "long long",
}  # fmt: skip


def plane_bytes(form: TileFormat, plane: Plane, n_tiles: int) -> int:
    """Bytes of a plane of so many tiles."""
    return n_tiles * TILE_ROWS * (form.step // form.columns) * plane.size


def tiled_bytes(form: TileFormat, n_rows: int, n_columns: int) -> int:
    """Bytes of a matrix in tiles, the last ones filled up with zeros."""
    n_steps = -(-n_columns // form.step)
    return -(-n_rows // TILE_ROWS) * n_steps * form.tile_bytes


def tile(form: TileFormat, blocks: np.ndarray, out: np.ndarray) -> None:
    """Put a matrix into tiles, as retile.cu does. blocks: u8[rows, blocks, bytes]; out: u8[tiled_bytes].

    Rows that are missing in the last tiles stay as they are in `out`.
    """
    per_step, n_rows = form.step // form.columns, blocks.shape[0]
    rows, steps = -(-n_rows // TILE_ROWS), -(-blocks.shape[1] // per_step)
    if blocks.shape[1] != steps * per_step:
        filled = np.zeros_like(blocks, shape=(n_rows, steps * per_step, form.n_bytes))
        filled[:, : blocks.shape[1]] = blocks
        blocks = filled
    whole = n_rows // TILE_ROWS * TILE_ROWS
    start = 0
    for first, size, outer, pieces in form.planes:
        end = start + rows * TILE_ROWS * steps * per_step * size
        inner = per_step * size // (outer * pieces)
        field = blocks[:, :, first : first + size]
        # as they lie: [row of tiles][step][half][piece][row of 8][outer][inner]
        to = out[start:end].reshape(rows, steps, 2, pieces, 8, outer, inner).transpose(0, 2, 4, 1, 5, 3, 6)
        if whole:
            to[: whole // TILE_ROWS] = field[:whole].reshape(-1, 2, 8, steps, outer, pieces, inner)
        for row in range(whole, n_rows):
            to[row // TILE_ROWS, row // 8 % 2, row % 8] = field[row].reshape(steps, outer, pieces, inner)
        start = end

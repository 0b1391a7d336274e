"""How weights lie on a GPU: in tiles of 16 rows, each field of a type's blocks in a plane by itself.

A tile has STEP columns, a unit of STEP/4 for each of four lanes, of each row. formats.cuh reads it: what the lanes of
a warp read at the same time lies side by side. Planes follow each other in one piece of memory, those with more bytes
of a block first, so that each begins where the reads of its fields are aligned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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


class Format(NamedTuple):
    """A type: a block of `columns` takes n_bytes; a tile has `step` columns.

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
    def tile_bytes(self) -> int:
        """Bytes of a tile, in all planes."""
        return TILE_ROWS * (self.step // self.columns) * self.n_bytes


FORMATS = {
    "Q4_0": Format(32, 18, 128, (Plane(2, 16), Plane(0, 2))),
    "Q4_1": Format(32, 20, 128, (Plane(4, 16), Plane(0, 4))),
    "Q5_0": Format(32, 22, 128, (Plane(6, 16), Plane(2, 4), Plane(0, 2))),
    "Q5_1": Format(32, 24, 128, (Plane(8, 16), Plane(4, 4), Plane(0, 4))),
    "Q8_0": Format(32, 34, 128, (Plane(2, 32, 4, 2), Plane(0, 2))),
    "Q2_K": Format(256, 84, 256, (Plane(16, 64), Plane(0, 16), Plane(80, 4)), True),
    "Q3_K": Format(256, 110, 256, (Plane(32, 64), Plane(0, 32), Plane(96, 12), Plane(108, 2)), True),
    "Q4_K": Format(256, 144, 256, (Plane(16, 128, 4, 2), Plane(0, 16))),
    "Q5_K": Format(256, 176, 256, (Plane(48, 128, 4, 2), Plane(16, 32), Plane(0, 16))),
    "Q6_K": Format(256, 210, 256, (Plane(0, 128, 2, 2), Plane(128, 64), Plane(192, 16), Plane(208, 2)), True),
    "IQ4_NL": Format(32, 18, 128, (Plane(2, 16), Plane(0, 2))),
    "IQ4_XS": Format(256, 136, 256, (Plane(8, 128, 4, 2), Plane(0, 8))),
    "F16": Format(32, 64, 128, (Plane(0, 64, 4, 4),)),  # what all float types become
}


def plane_bytes(form: Format, plane: Plane, n_tiles: int) -> int:
    """Bytes of a plane of so many tiles."""
    return n_tiles * TILE_ROWS * (form.step // form.columns) * plane.size


def tiled_bytes(form: Format, n_rows: int, n_columns: int) -> int:
    """Bytes of a matrix in tiles, the last ones filled up with zeros."""
    n_steps = -(-n_columns // form.step)
    return -(-n_rows // TILE_ROWS) * TILE_ROWS * n_steps * (form.step // form.columns) * form.n_bytes


def tile(form: Format, blocks: np.ndarray, out: np.ndarray) -> None:
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

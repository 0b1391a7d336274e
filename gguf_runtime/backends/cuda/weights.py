"""Weights in a GPU's memory: matrices in tiles of quantised blocks (kernels/cuda/formats.py), vectors as f32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ...kernels.cuda.formats import FORMATS, RETILED, TILE_ROWS, TileFormat, plane_bytes, tile, tiled_bytes
from ...loader import Tensor
from ..errors import PlanError
from ..floats import floats
from .launches import GpuMemory, Launch

_STEP = 2 << 20
_UNITS = {1: "u8", 2: "u16", 4: "u32", 8: "uint2", 16: "uint4"}  # by their bytes


class Matrix(NamedTuple):
    """Some rows of weights of one type. n_columns: with what they are filled up by."""

    type: str
    n_rows: int
    n_columns: int
    memory: GpuMemory

    @property
    def format(self) -> TileFormat:
        return FORMATS[self.type]

    @property
    def n_steps(self) -> int:
        """Tiles side by side."""
        return self.n_columns // self.format.step

    @property
    def n_tiles(self) -> int:
        return -(-self.n_rows // TILE_ROWS) * self.n_steps


def matrix_type(tensor: Tensor) -> str:
    """The format in which a matrix lies on the GPU. Raises PlanError where there is none."""
    if tensor.type in RETILED:
        return "F16"
    if tensor.type not in FORMATS:
        raise PlanError(f"tensor {tensor.name} has type {tensor.type}, which the GPU has no kernels for yet")
    return tensor.type


def n_columns(tensor: Tensor) -> int:
    """Columns of a matrix on the GPU: whole tiles."""
    step = FORMATS[matrix_type(tensor)].step
    return -(-tensor.shape[-1] // step) * step


def device_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor on the GPU, in the steps in which its driver gives memory."""
    size = 4 * tensor.shape[0] if len(tensor.shape) == 1 else matrix_bytes([tensor])
    return size if size < _STEP // 2 else -(-size // _STEP) * _STEP


def expert_rows(tensor: Tensor) -> int:
    """Rows from one matrix of several to the next: whole tiles."""
    return -(-tensor.shape[-2] // TILE_ROWS) * TILE_ROWS


def n_rows(tensor: Tensor) -> int:
    """Rows that a matrix takes on the GPU, or several of one tensor that lie one after another."""
    return tensor.shape[0] if len(tensor.shape) == 2 else math.prod(tensor.shape[:-2]) * expert_rows(tensor)


def matrix_of(tensors: Sequence[Tensor], memory: GpuMemory) -> Matrix:
    """Tensors of one type and width, their rows one after another, as one matrix."""
    return Matrix(matrix_type(tensors[0]), sum(map(n_rows, tensors)), n_columns(tensors[0]), memory)


def matrix_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of that."""
    return tiled_bytes(FORMATS[matrix_type(tensors[0])], sum(map(n_rows, tensors)), tensors[0].shape[-1])


def pieces(tensors: Sequence[Tensor], most: int) -> Iterator[tuple[int, Tensor]]:
    """Tensors cut into matrices of at most so many bytes, each with its first row in the matrix of all."""
    first = 0
    for tensor in tensors:
        for at, matrix in _matrices(tensor):
            rows, width = matrix.shape
            row_bytes = matrix.n_bytes // rows
            step = max(1, most // row_bytes)
            for row in range(0, rows, step):
                end = min(row + step, rows)
                data = matrix.data[row * row_bytes : end * row_bytes]
                yield first + at + row, matrix._replace(shape=(end - row, width), data=data)
        first += n_rows(tensor)


def _matrices(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The matrices of a tensor, those together that lie so in the file and on the GPU, with their first rows."""
    *several, rows, width = tensor.shape
    n = math.prod(several)
    if n == 1 or (rows % TILE_ROWS == 0 and tensor.data.ndim == 1):
        yield 0, tensor._replace(shape=(n * rows, width), data=tensor.data.reshape(-1))
        return
    for i, data in enumerate(tensor.data.reshape(n, -1)):
        yield i * expert_rows(tensor), tensor._replace(shape=(rows, width), data=data)


def tilings(tensor: Tensor, source: int, matrix: Matrix, first_row: int) -> list[Launch]:
    """Launches that put a tensor, whose bytes are at `source` on the GPU, into a matrix, from row first_row on."""
    rows, width = tensor.shape
    form, per_step = matrix.format, matrix.format.step // matrix.format.columns
    first_tile, last_tile = first_row // TILE_ROWS, (first_row + rows - 1) // TILE_ROWS
    n_tiles, start = (last_tile - first_tile + 1) * matrix.n_steps, matrix.memory.address
    found: list[Launch] = []
    for plane in form.planes:
        inner = per_step * plane.size // (plane.outer * plane.pieces)
        unit = math.gcd(16, form.n_bytes, plane.first, plane.size, inner)
        out = start + plane_bytes(form, plane, first_tile * matrix.n_steps)
        if tensor.type in RETILED:
            name, unit = f"retile_floats<{RETILED[tensor.type]}>", 2
            how: tuple[int, ...] = width, matrix.n_steps, form.step
        else:
            name, n_blocks = f"retile<{_UNITS[unit]}>", width // form.columns
            how = n_blocks, form.n_bytes, matrix.n_steps, per_step, plane.first, plane.size
        n = plane_bytes(form, plane, n_tiles) // unit
        arguments = source, out, n, first_row, rows, *how, plane.outer, plane.pieces
        found.append(Launch(name, (-(-n // 256),), 256, arguments))
        start += plane_bytes(form, plane, matrix.n_tiles)
    return found


def in_pairs(matrices: Sequence[Matrix]) -> Iterator[tuple[Matrix, Matrix | None, int]]:
    """Two at a time, as kernels take them, and in which column the results of each pair begin."""
    column = 0
    for i in range(0, len(matrices), 2):
        a, b = matrices[i], (matrices[i + 1] if i + 1 < len(matrices) else None)
        yield a, b, column
        column += a.n_rows + (b.n_rows if b else 0)


def gather_rows(tensor: Tensor, ids: np.ndarray, out: np.ndarray) -> int:
    """Rows of an embedding, in the file, as tiles at `out`, u8; gives how many bytes they are."""
    form = FORMATS[matrix_type(tensor)]
    rows = tensor.data.reshape(tensor.shape[0], -1)[ids]
    n_bytes = tiled_bytes(form, len(ids), tensor.shape[1])
    tile(form, _blocks(tensor._replace(data=rows.reshape(-1), shape=(len(ids), tensor.shape[1]))), out[:n_bytes])
    return n_bytes


def _blocks(tensor: Tensor) -> np.ndarray:
    """The blocks of a matrix, u8[rows, blocks, bytes]; floats become halves, in blocks filled up with zeros."""
    rows, width = tensor.shape
    form = FORMATS[matrix_type(tensor)]
    if tensor.type not in RETILED:
        return tensor.data.reshape(rows, -1, form.n_bytes)
    out = np.zeros((rows, -(-width // form.columns) * form.columns), np.float16)
    largest = np.finfo(np.float16).max
    np.clip(floats(tensor).reshape(tensor.shape), -largest, largest, out=out[:, :width], casting="same_kind")
    return out.view(np.uint8).reshape(rows, -1, form.n_bytes)

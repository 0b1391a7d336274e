"""Weights in a GPU's memory: matrices in tiles of quantised blocks (kernels/cuda/formats.py), vectors as f32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import gcd
from typing import NamedTuple

import numpy as np

from ...kernels.cuda.formats import FORMATS, RETILED, TILE_ROWS, Format, plane_bytes, tile, tiled_bytes
from ...loader import Tensor
from ..errors import PlanError
from ..floats import floats
from .device import CudaDevice, Memory

_STEP = 2 << 20
_UPLOAD = 64 << 20  # bytes of a matrix that go over the bus before they are laid out
_UNITS = {1: "u8", 2: "u16", 4: "u32", 8: "uint2", 16: "uint4"}  # by their bytes


class Matrix(NamedTuple):
    """Some rows of weights of one type. n_columns: with what they are filled up by."""

    type: str
    n_rows: int
    n_columns: int
    memory: Memory

    @property
    def format(self) -> Format:
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
    size = 4 * tensor.shape[0] if len(tensor.shape) == 1 else _matrix_bytes(tensor)
    return size if size < _STEP // 2 else -(-size // _STEP) * _STEP


def _matrix_bytes(tensor: Tensor) -> int:
    return tiled_bytes(FORMATS[matrix_type(tensor)], *tensor.shape)


class Upload:
    """Brings matrices to a GPU, to stay there: as their bytes are, over the bus, and then into tiles.

    tensors: those that may come, which are pinned while this is open.
    """

    def __init__(self, device: CudaDevice, tensors: Iterable[Tensor]) -> None:
        self._device, self._room = device, [device.allocate(_UPLOAD)]
        self._pinned = device.pin([tensor.data for tensor in tensors])

    def __call__(self, tensors: Sequence[Tensor]) -> Matrix:
        """Tensors of one type and width, their rows one after another, as one matrix."""
        device, kind, n_rows = self._device, matrix_type(tensors[0]), sum(tensor.shape[0] for tensor in tensors)
        memory = device.allocate(tiled_bytes(FORMATS[kind], n_rows, tensors[0].shape[1]))
        matrix, first_row, (room,) = Matrix(kind, n_rows, n_columns(tensors[0]), memory), 0, self._room
        with device.working():
            for piece in (piece for tensor in tensors for piece in _pieces(tensor)):
                device.send(room.address, piece.data)
                for launch in tilings(device, piece, room.address, matrix, first_row):
                    launch()
                first_row += piece.shape[0]
            device.synchronize()
        return matrix

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *error: object) -> None:
        self._pinned.close()
        self._room.clear()


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A matrix cut into some rows at a time."""
    n_rows, width = tensor.shape
    row_bytes = tensor.n_bytes // n_rows
    step = max(1, _UPLOAD // row_bytes)
    for row in range(0, n_rows, step):
        end = min(row + step, n_rows)
        yield tensor._replace(shape=(end - row, width), data=tensor.data[row * row_bytes : end * row_bytes])


def tilings(
    device: CudaDevice, tensor: Tensor, source: int, matrix: Matrix, first_row: int
) -> list[Callable[[], None]]:
    """Launches that put a tensor, whose bytes are at `source` on the GPU, into a matrix, from row first_row on."""
    n_rows, width = tensor.shape
    form, per_step = matrix.format, matrix.format.step // matrix.format.columns
    first_tile, last_tile = first_row // TILE_ROWS, (first_row + n_rows - 1) // TILE_ROWS
    n_tiles, start = (last_tile - first_tile + 1) * matrix.n_steps, matrix.memory.address
    found: list[Callable[[], None]] = []
    for plane in form.planes:
        inner = per_step * plane.size // (plane.outer * plane.pieces)
        unit = gcd(16, form.n_bytes, plane.first, plane.size, inner)
        out = start + plane_bytes(form, plane, first_tile * matrix.n_steps)
        if tensor.type in RETILED:
            name, unit = f"retile_floats<{RETILED[tensor.type]}>", 2
            how: tuple[int, ...] = width, matrix.n_steps, form.step
        else:
            name, n_blocks = f"retile<{_UNITS[unit]}>", width // form.columns
            how = n_blocks, form.n_bytes, matrix.n_steps, per_step, plane.first, plane.size
        n = plane_bytes(form, plane, n_tiles) // unit
        arguments = source, out, n, first_row, n_rows, *how, plane.outer, plane.pieces
        found.append(partial(device.kernel(name), (-(-n // 256),), 256, arguments))
        start += plane_bytes(form, plane, matrix.n_tiles)
    return found


def in_pairs(matrices: Sequence[Matrix]) -> Iterator[tuple[Matrix, Matrix | None, int]]:
    """Two at a time, as kernels take them, and in which column the results of each pair begin."""
    column = 0
    for i in range(0, len(matrices), 2):
        a, b = matrices[i], (matrices[i + 1] if i + 1 < len(matrices) else None)
        yield a, b, column
        column += a.n_rows + (b.n_rows if b else 0)


def upload_vector(device: CudaDevice, values: np.ndarray) -> Memory:
    """Numbers as they are, such as f32 of a norm."""
    memory = device.allocate(values.nbytes)
    values = np.ascontiguousarray(values)
    with device.working():
        device.send(memory.address, values)
        device.synchronize()
    return memory


def gather_rows(tensor: Tensor, ids: np.ndarray, out: np.ndarray) -> int:
    """Rows of an embedding, in the file, as tiles at `out`, u8; gives how many bytes they are."""
    form = FORMATS[matrix_type(tensor)]
    rows = tensor.data.reshape(tensor.shape[0], -1)[ids]
    n_bytes = tiled_bytes(form, len(ids), tensor.shape[1])
    tile(form, _blocks(tensor._replace(data=rows.reshape(-1), shape=(len(ids), tensor.shape[1]))), out[:n_bytes])
    return n_bytes


def _blocks(tensor: Tensor) -> np.ndarray:
    """The blocks of a matrix, u8[rows, blocks, bytes]; floats become halves, in blocks filled up with zeros."""
    n_rows, width = tensor.shape
    form = FORMATS[matrix_type(tensor)]
    if tensor.type not in RETILED:
        return tensor.data.reshape(n_rows, -1, form.n_bytes)
    out = np.zeros((n_rows, -(-width // form.columns) * form.columns), np.float16)
    largest = np.finfo(np.float16).max
    np.clip(floats(tensor).reshape(tensor.shape), -largest, largest, out=out[:, :width], casting="same_kind")
    return out.view(np.uint8).reshape(n_rows, -1, form.n_bytes)

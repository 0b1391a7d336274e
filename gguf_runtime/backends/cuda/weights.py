"""Weights in a GPU's memory: matrices in tiles of quantised blocks (kernels/cuda/formats.py), vectors as f32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cupy
import numpy as np

from ...kernels.cuda.formats import FORMATS, TILE_ROWS, Format, tile, tiled_bytes
from ...kernels.layout import FLOATS
from ...loader import Tensor
from ..plan import PlanError
from .device import CudaDevice, Memory

_STEP = 2 << 20


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
    if tensor.type in FLOATS:
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


def upload_matrix(device: CudaDevice, tensors: Sequence[Tensor]) -> Matrix:
    """Tensors of one type and width, their rows one after another, as one matrix."""
    kind, n_rows = matrix_type(tensors[0]), sum(tensor.shape[0] for tensor in tensors)
    memory = device.allocate(tiled_bytes(FORMATS[kind], n_rows, tensors[0].shape[1]))
    with device.handle:
        out = cupy.ndarray(memory.n_bytes, cupy.uint8, cupy.cuda.MemoryPointer(memory.owner, 0))
        parts = [cupy.asarray(_blocks(tensor)) for tensor in tensors]
        tile(FORMATS[kind], cupy.concatenate(parts) if len(parts) > 1 else parts[0], out)
        del parts
        cupy.cuda.get_current_stream().synchronize()
        cupy.get_default_memory_pool().free_all_blocks()
    return Matrix(kind, n_rows, n_columns(tensors[0]), memory)


def upload_vector(device: CudaDevice, values: np.ndarray) -> Memory:
    """Numbers as they are, such as f32 of a norm."""
    memory = device.allocate(values.nbytes)
    values = np.ascontiguousarray(values)
    with device.handle:
        device.copy(memory.address, values.ctypes.data, values.nbytes)
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
    if tensor.type not in FLOATS:
        return tensor.data.reshape(n_rows, -1, form.n_bytes)
    out = np.zeros((n_rows, -(-width // form.columns) * form.columns), np.float16)
    largest = np.finfo(np.float16).max
    np.clip(floats(tensor).reshape(tensor.shape), -largest, largest, out=out[:, :width], casting="same_kind")
    return out.view(np.uint8).reshape(n_rows, -1, form.n_bytes)


def floats(tensor: Tensor) -> np.ndarray:
    """A tensor of a float type as f32. Raises PlanError for other types."""
    if tensor.type == "F32":
        return tensor.data.view(np.float32)
    if tensor.type == "F16":
        return tensor.data.view(np.float16).astype(np.float32)
    if tensor.type == "BF16":
        return (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise PlanError(f"tensor {tensor.name} has type {tensor.type}; it must be F32, F16 or BF16")

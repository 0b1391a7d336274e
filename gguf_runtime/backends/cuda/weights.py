"""Weights in a GPU's memory: matrices as planes of quantised blocks (kernels/cuda/formats.py), vectors as f32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cupy
import numpy as np

from ...kernels.cuda.formats import FORMATS, Format
from ...kernels.layout import FLOATS
from ...loader import Tensor
from ..plan import PlanError
from .device import CudaDevice, Memory

_STEP = 2 << 20


class Matrix(NamedTuple):
    """Some rows of weights of one type. n_columns: with what float rows are filled up by."""

    type: str
    n_rows: int
    n_columns: int
    memory: Memory

    @property
    def format(self) -> Format:
        return FORMATS[self.type]

    @property
    def n_blocks(self) -> int:
        return self.n_rows * (self.n_columns // self.format.columns)


def matrix_type(tensor: Tensor) -> str:
    """The format in which a matrix lies on the GPU. Raises PlanError where there is none."""
    if tensor.type in FLOATS:
        return "F16"
    if tensor.type not in FORMATS:
        raise PlanError(f"tensor {tensor.name} has type {tensor.type}, which the GPU has no kernels for yet")
    return tensor.type


def n_columns(tensor: Tensor) -> int:
    """Columns of a matrix on the GPU."""
    block = FORMATS[matrix_type(tensor)].columns
    return -(-tensor.shape[-1] // block) * block


def device_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor on the GPU, in the steps in which its driver gives memory."""
    size = 4 * tensor.shape[0] if len(tensor.shape) == 1 else _matrix_bytes(tensor)
    return size if size < _STEP // 2 else -(-size // _STEP) * _STEP


def _matrix_bytes(tensor: Tensor) -> int:
    block = FORMATS[matrix_type(tensor)]
    return tensor.shape[0] * n_columns(tensor) // block.columns * block.n_bytes


def upload_matrix(device: CudaDevice, tensors: Sequence[Tensor]) -> Matrix:
    """Tensors of one type and width, their rows one after another, as one matrix."""
    kind, columns = matrix_type(tensors[0]), n_columns(tensors[0])
    n_rows = sum(tensor.shape[0] for tensor in tensors)
    memory = device.allocate(sum(map(_matrix_bytes, tensors)))
    form = FORMATS[kind]
    n_blocks, done = n_rows * (columns // form.columns), 0
    with device.handle:
        everything = cupy.ndarray(memory.n_bytes, cupy.uint8, cupy.cuda.MemoryPointer(memory.owner, 0))
        for tensor in tensors:
            blocks = cupy.asarray(_halves(tensor, columns) if kind == "F16" else tensor.data).reshape(-1, form.n_bytes)
            start = 0
            for first, size in form.planes:
                plane = everything[start : start + n_blocks * size].reshape(n_blocks, size)
                plane[done : done + len(blocks)] = blocks[:, first : first + size]
                start += n_blocks * size
            done += len(blocks)
        cupy.cuda.get_current_stream().synchronize()
        cupy.get_default_memory_pool().free_all_blocks()
    return Matrix(kind, n_rows, columns, memory)


def upload_vector(device: CudaDevice, values: np.ndarray) -> Memory:
    """Numbers as they are, such as f32 of a norm."""
    memory = device.allocate(values.nbytes)
    values = np.ascontiguousarray(values)
    with device.handle:
        device.copy(memory.address, values.ctypes.data, values.nbytes)
        device.synchronize()
    return memory


def gather_rows(tensor: Tensor, ids: np.ndarray, out: np.ndarray) -> int:
    """Rows of an embedding, in the file, as planes at `out`, u8; gives how many bytes they are."""
    kind = matrix_type(tensor)
    form = FORMATS[kind]
    rows = tensor.data.reshape(tensor.shape[0], -1)[ids]
    if kind == "F16":
        rows = _halves(tensor._replace(data=rows.reshape(-1), shape=(len(ids), tensor.shape[1])), n_columns(tensor))
    blocks, start = rows.reshape(-1, form.n_bytes), 0
    for first, size in form.planes:
        end = start + len(blocks) * size
        out[start:end].reshape(-1, size)[:] = blocks[:, first : first + size]
        start = end
    return start


def _halves(tensor: Tensor, columns: int) -> np.ndarray:
    """A float matrix as halves, its rows filled up with zeros: u8."""
    values = floats(tensor).reshape(tensor.shape)
    out = np.zeros((tensor.shape[0], columns), np.float16)
    largest = np.finfo(np.float16).max
    np.clip(values, -largest, largest, out=out[:, : tensor.shape[1]], casting="same_kind")
    return out.view(np.uint8)


def floats(tensor: Tensor) -> np.ndarray:
    """A tensor of a float type as f32. Raises PlanError for other types."""
    if tensor.type == "F32":
        return tensor.data.view(np.float32)
    if tensor.type == "F16":
        return tensor.data.view(np.float16).astype(np.float32)
    if tensor.type == "BF16":
        return (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise PlanError(f"tensor {tensor.name} has type {tensor.type}; it must be F32, F16 or BF16")

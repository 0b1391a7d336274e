"""Weights in float64, of any type."""

from __future__ import annotations

import numpy as np

from ...loader import Tensor
from ..errors import PlanError
from ..floats import DTYPES

_KEPT = 1 << 30  # bytes of converted weights that are kept


class Weights:
    """Tensors as float64; what was converted is kept while there is room."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], np.ndarray] = {}
        self._n_bytes = 0

    def __call__(self, tensor: Tensor) -> np.ndarray:
        """f64 of the tensor's shape. Raises PlanError where its type is not known."""
        key = tensor.name, tensor.data.ctypes.data
        if key not in self._kept:
            values = to_float64(tensor)
            if self._n_bytes + values.nbytes > _KEPT:
                return values
            self._kept[key], self._n_bytes = values, self._n_bytes + values.nbytes
        return self._kept[key]

    def rows(self, tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
        """f64[len(numbers), columns]: only these rows."""
        data = tensor.data.reshape(tensor.shape[0], -1)[numbers]
        return to_float64(Tensor(tensor.name, (len(numbers), tensor.shape[1]), tensor.type, data))


def to_float64(tensor: Tensor) -> np.ndarray:
    """f64 of the tensor's shape, by the gguf package: another's reading of the formats than the kernels'.

    What it does not dequantise is read by the layouts in ggml-common.h. Raises PlanError where a type is not known.
    """
    data = np.ascontiguousarray(tensor.data).reshape(-1)
    if tensor.type in DTYPES:
        values = data.view(DTYPES[tensor.type])
    elif tensor.type in _LAYOUTS:
        values = _of_blocks(data, *_LAYOUTS[tensor.type])
    else:
        import gguf

        try:
            values = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[tensor.type])
        except (KeyError, NotImplementedError):
            raise PlanError(f"tensor {tensor.name} has type {tensor.type}, which has no reference") from None
    return values.astype(np.float64).reshape(tensor.shape)


#: Type → (a block, bits of a column q, zero, step): w = d·(step·q - zero).
_LAYOUTS: dict[str, tuple[np.dtype, int, int, int]] = {
    "Q1_0": (np.dtype([("d", "<f2"), ("q", "u1", 16)]), 1, 1, 2),
    "Q2_0": (np.dtype([("d", "<f2"), ("q", "u1", 16)]), 2, 1, 1),
    "Q8_1": (np.dtype([("d", "<f2"), ("sum", "<f2"), ("q", "i1", 32)]), 8, 0, 1),
    "Q8_K": (np.dtype([("d", "<f4"), ("q", "i1", 256), ("sums", "<i2", 16)]), 8, 0, 1),
}


def _of_blocks(data: np.ndarray, block: np.dtype, bits: int, zero: int, step: int) -> np.ndarray:
    """f64: all columns, which lie in order from the lowest bits of each byte on."""
    blocks = data.view(block)
    q = blocks["q"].astype(np.int64)
    if bits < 8:
        q = (q[..., None] >> np.arange(0, 8, bits) & 2**bits - 1).reshape(len(blocks), -1)
    return blocks["d"].astype(np.float64)[:, None] * (step * q - zero)

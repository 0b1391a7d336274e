"""Weights in float64, of any type that the gguf package knows."""

from __future__ import annotations

import numpy as np

from ...loader import Tensor
from ..errors import PlanError

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
    """f64 of the tensor's shape, by the gguf package: another's reading of the formats than the kernels'."""
    if tensor.type == "F64":
        return np.ascontiguousarray(tensor.data).view(np.float64).reshape(tensor.shape)
    if tensor.type == "I32":
        return np.ascontiguousarray(tensor.data).view(np.int32).reshape(tensor.shape).astype(np.float64)
    import gguf

    try:
        kind = gguf.GGMLQuantizationType[tensor.type]
        values = gguf.quants.dequantize(np.ascontiguousarray(tensor.data).reshape(-1), kind)
    except (KeyError, NotImplementedError):
        raise PlanError(f"tensor {tensor.name} has type {tensor.type}, which has no reference") from None
    return values.astype(np.float64).reshape(tensor.shape)

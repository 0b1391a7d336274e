"""Numbers of a file that are no blocks."""

from __future__ import annotations

import numpy as np

from ..loader import Tensor
from .errors import PlanError

#: The types of numbers that NumPy has too.
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I8": np.int8, "I16": np.int16, "I32": np.int32,
    "I64": np.int64,
}  # fmt: skip


def floats(tensor: Tensor) -> np.ndarray:
    """A tensor of single numbers as f32. Raises PlanError for other types."""
    if tensor.type == "BF16":
        return (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if tensor.type in DTYPES:
        return tensor.data.view(DTYPES[tensor.type]).astype(np.float32, copy=False)
    raise PlanError(f"tensor {tensor.name} has type {tensor.type}; it must be BF16, {', '.join(DTYPES)}")

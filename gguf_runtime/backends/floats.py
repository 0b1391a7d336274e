"""Numbers of a file that are no blocks."""

from __future__ import annotations

import numpy as np

from ..loader import Tensor
from .errors import PlanError


def floats(tensor: Tensor) -> np.ndarray:
    """A tensor of a float type as f32. Raises PlanError for other types."""
    if tensor.type == "F32":
        return tensor.data.view(np.float32)
    if tensor.type == "F16":
        return tensor.data.view(np.float16).astype(np.float32)
    if tensor.type == "BF16":
        return (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise PlanError(f"tensor {tensor.name} has type {tensor.type}; it must be F32, F16 or BF16")

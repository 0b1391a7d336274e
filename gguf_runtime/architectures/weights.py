"""Reading a model's hyperparameters and tensors with every check that memory safety needs."""

from __future__ import annotations

import math
from typing import Any

from ..loader import GGUFFile, Tensor

_LIMIT = 1 << 31  # no hyperparameter of a real model comes near


class ModelError(Exception):
    """The file is a GGUF, but not a model that can be run."""


class Weights:
    """A file's hyperparameters (keys without the architecture's prefix) and tensors."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.prefix = f"{file.metadata['general.architecture']}."

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LIMIT:
            raise ModelError(f"{self.prefix}{key} is {value!r}, which is not a sensible count")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ModelError(f"{self.prefix}{key} is {value!r}, which is not a number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        return str(self._get(key, default))

    def tensor(self, name: str, *shape: int) -> Tensor:
        """A tensor of exactly this shape (rows, columns). Raises ModelError where it is missing or differs."""
        tensor = self.optional(name, *shape)
        if tensor is None:
            raise ModelError(f"{self.file.path}: tensor {name} is missing")
        return tensor

    def optional(self, name: str, *shape: int) -> Tensor | None:
        """The same, or None where the file has no such tensor."""
        tensor = self.file.tensors.get(name)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ModelError(f"tensor {name} has shape {tuple(tensor.shape)}, the metadata asks for {shape}")
        return tensor

    def _get(self, key: str, default: Any) -> Any:
        value = self.file.metadata.get(self.prefix + key, default)
        if value is None:
            raise ModelError(f"{self.file.path}: the metadata lack {self.prefix}{key}")
        return value

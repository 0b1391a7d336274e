"""What devices have in common that compute where the weights are: in the system's memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import memory
from ..graph import Graph
from ..loader import Tensor
from . import Settings


class HostDevice:
    """Weights take what they take in the file, and nothing has to be brought."""

    pass_sizes: tuple[int, ...] = (512,)

    def __init__(self, name: str, description: str) -> None:
        self.name, self.description = name, description

    def weight_bytes(self, tensor: Tensor) -> int:
        return tensor.n_bytes

    def room(self, graphs: Sequence[Graph], n_tokens: int) -> int:
        return memory.available()

    def streaming_bytes(self, layers: Sequence[Graph], settings: Settings) -> int:
        return 0

    def best(self, rows: np.ndarray, k: int) -> np.ndarray:
        """i32[n][k]: the columns of the k largest numbers of each of f32[n][columns], ascending; of equals, the first.
        A NaN counts as larger than all numbers. k: at most MOST_BEST and the number of columns."""
        falling = np.lexsort((-rows, ~np.isnan(rows)), axis=1)
        return np.sort(falling[:, :k], axis=1).astype(np.int32)

    def normalizers(self, rows: np.ndarray) -> np.ndarray:
        """f64[n]: the logarithm of the sum of exponentials of each of f32[n][columns]."""
        best = rows.max(axis=1, keepdims=True).astype(np.float64)
        return best[:, 0] + np.log(np.exp(rows - best).sum(axis=1))

    def after_fork(self) -> None:
        """Nothing, where there are no threads."""

    def close(self) -> None:
        """Nothing: memory goes with the last who holds it."""

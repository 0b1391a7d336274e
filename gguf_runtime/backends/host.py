"""What devices have in common that compute where the weights are: in the system's memory."""

from __future__ import annotations

from collections.abc import Sequence

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

    def after_fork(self) -> None:
        """Nothing, where there are no threads."""

    def close(self) -> None:
        """Nothing: memory goes with the last who holds it."""

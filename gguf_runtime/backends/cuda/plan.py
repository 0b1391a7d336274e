"""What a graph becomes on a GPU, for any batch: what is computed together, and where values and weights lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...graph import Graph
from ...loader import Tensor
from ...operations import Input, RopeFrequencies
from ..floats import floats
from ..pages import PageLayout
from ..states import StateLayout
from .inputs import CudaInputs
from .launches import MAX_LOGITS
from .places import exact_products, fused_for_gpu, norms_made_by_readers, place
from .weights import Matrix
from .workspace import Workspace


class CudaPlan:
    """Gives every value of a graph its rows, and weights their addresses; operations.py, every operation its launches.

    input, result: rows of what comes and goes. norms: those that their readers make, if there is one token. exact:
    products in f32.
    """

    def __init__(
        self, graph: Graph, space: Workspace, layout: PageLayout, states: StateLayout | None, inputs: CudaInputs,
        matrix: Callable[[Sequence[Tensor]], Matrix],
    ) -> None:  # fmt: skip
        """matrix: gives tensors of one type and width as one matrix on the GPU."""
        self.device, self.space, self.layout, self.states, self.inputs = space.device, space, layout, states, inputs
        self.graph = graph
        self.fused = fused_for_gpu(graph.ops)
        self.norms, self.exact = norms_made_by_readers(self.fused), exact_products(self.fused)
        places = place(self.fused, space.n_rows, MAX_LOGITS, space.places)
        self.rows = {number: rows._replace(at=rows.at + space.values.address) for number, rows in places.items()}
        first = graph.ops[0]
        self.input = self.rows[first.out.number] if isinstance(first, Input) else None
        self.result = self.rows[graph.result.number]
        self._load, self._matrices = matrix, dict[tuple[str, ...], Matrix]()
        self._turned: set[tuple[int, int]] = set()

    def matrix(self, tensors: Sequence[Tensor]) -> Matrix:
        """Tensors of one type and width as one matrix."""
        names = tuple(tensor.name for tensor in tensors)
        if names not in self._matrices:
            self._matrices[names] = self._load(tensors)
        return self._matrices[names]

    def vector(self, name: str, make: Callable[[], np.ndarray]) -> int:
        """Address of numbers that are made once."""
        vectors = self.space.vectors
        if name not in vectors:
            vectors[name] = self.device.upload(make())
        return vectors[name].address

    def floats(self, tensor: Tensor) -> int:
        """Address of a vector of weights, f32."""
        return self.vector(tensor.name, lambda: floats(tensor))

    def turns(self, rope: RopeFrequencies, delay: int) -> tuple[int, bool]:
        """Address of the tokens' (cos, sin), and whether this plan makes them: once for all that rotate alike."""
        key, angles = (id(rope), delay), self.inputs.angles
        if key not in angles:
            self.space.ropes.append(rope)
            angles[key] = self.device.allocate(8 * len(rope.frequencies) * self.space.n_rows)
            self._turned.add(key)
        return angles[key].address, key in self._turned

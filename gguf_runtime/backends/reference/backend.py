"""Runs a graph operation by operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import memory
from ...graph import Graph
from ...loader import Tensor
from ...operations import Input, Value, describe
from .. import Backend, Batch, Device, Result, Settings
from ..errors import PlanError
from .memory import Memory
from .operations import MEANING, Run
from .weights import Weights


class ReferenceDevice:
    """NumPy as a device: any graph, exact and slow."""

    pass_sizes: tuple[int, ...] = (512,)

    def __init__(self, name: str = "CPU") -> None:
        self.name, self.description = name, "NumPy in float64"

    def weight_bytes(self, tensor: Tensor) -> int:
        return tensor.n_bytes

    def room(self, graphs: Sequence[Graph], n_tokens: int) -> int:
        return memory.available()

    def streaming_bytes(self, layers: Sequence[Graph], settings: Settings) -> int:
        return 0

    def compile(
        self,
        graphs: Sequence[Graph],
        settings: Settings,
        streamed: Sequence[Sequence[Graph]] = (),
        host: Device | None = None,
    ) -> list[Backend]:
        assert not streamed
        return [ReferenceBackend(graph, settings.n_tokens) for graph in graphs]

    def after_fork(self) -> None:
        """Nothing: it has no threads."""

    def close(self) -> None:
        """Nothing: memory goes with the last who holds it."""


class ReferenceBackend:
    """Any graph, on any machine. Raises PlanError for an operation without a meaning."""

    max_logits: int | None = None
    n_alike = 1  # NumPy adds up in an order that depends on the number of rows

    def __init__(self, graph: Graph, n_batch: int) -> None:
        for op in [*graph.ops, *(graph.encoder.ops if graph.encoder else [])]:
            if type(op) not in MEANING:
                raise PlanError(f"{describe(op)}: nothing says what that means")
        self._graph, self.n_batch = graph, n_batch
        self._memory, self._weights = Memory(graph), Weights()
        self.memory, self.states = self._memory.pages, self._memory.states

    def start(self, batch: Batch, x: np.ndarray | None = None) -> Result:
        """The result is there when this returns."""
        values = self.values(batch, x)
        result = self._graph.result
        out = values[result.number].reshape(-1, result.size).astype(np.float32)
        return lambda: out

    def encode(self, batch: Batch) -> None:
        """Read whole source texts, for what is started on these sequences after that; sets their `n_source`."""
        assert self._graph.encoder
        self._run(self._graph.encoder, batch, None)
        for chunk in batch.chunks:
            chunk.sequence.n_source = len(chunk.tokens)

    def values(self, batch: Batch, x: np.ndarray | None = None) -> dict[int, np.ndarray]:
        """What every operation makes of a batch: f64[rows, heads, width], by the value's number."""
        return self._run(self._graph, batch, x)

    def _run(self, graph: Graph, batch: Batch, x: np.ndarray | None) -> dict[int, np.ndarray]:
        run = Run(batch, self._memory, self._weights)
        for op in graph.ops:
            if isinstance(op, Input):
                assert x is not None
                made = x.astype(np.float64)
            else:
                made = MEANING[type(op)](run, op)
            run.values[op.out.number] = _shaped(made, op.out)
        return run.values

    def device(self, n_tokens: int) -> object:
        return self

    def step_cost(self, n_tokens: int) -> float:
        return n_tokens

    def note(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing: memory goes with the last who holds it."""


def _shaped(made: np.ndarray, value: Value) -> np.ndarray:
    return made.reshape(-1, value.heads, value.width)

"""Runs a graph operation by operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...graph import Graph
from ...operations import Input, Value, describe
from .. import Backend, Batch, Device, PassResult, Settings
from ..errors import PlanError
from ..host import HostDevice
from ..pages import WindowMemory
from .memory import Memory
from .operations import MEANING, Run
from .weights import Weights


class ReferenceDevice(HostDevice):
    """NumPy as a device: any graph, exact and slow."""

    def __init__(self, name: str = "CPU") -> None:
        super().__init__(name, "NumPy in float64")

    def compile(
        self,
        graphs: Sequence[Graph],
        settings: Settings,
        streamed: Sequence[Sequence[Graph]] = (),
        host: Device | None = None,
    ) -> list[Backend]:
        assert not streamed
        return [ReferenceBackend(graph, settings.n_tokens) for graph in graphs]

    def compile_encoder(self, graph: Graph, settings: Settings, decoder: Backend) -> Backend:
        assert isinstance(decoder, ReferenceBackend)
        return ReferenceBackend(graph, settings.n_tokens, decoder)


class ReferenceBackend(Backend):
    """Any graph, on any machine. Raises PlanError for an operation without a meaning."""

    max_logits: int | None = None
    windows: WindowMemory | None = None
    n_alike = 1  # NumPy adds up in an order that depends on the number of rows

    def __init__(self, graph: Graph, n_batch: int, decoder: ReferenceBackend | None = None) -> None:
        """decoder: of a graph that is its encoder, and keeps what it makes of source texts there."""
        for op in [*graph.ops, *(graph.encoder.ops if graph.encoder else [])]:
            if type(op) not in MEANING:
                raise PlanError(f"{describe(op)}: nothing says what that means")
        self._graph, self.n_batch = graph, n_batch
        self._memory: Memory = decoder._memory if decoder else Memory(graph)
        self._weights = Weights()
        self.memory, self.states = self._memory.pages, self._memory.states

    def start(self, batch: Batch, x: np.ndarray | None = None) -> PassResult:
        """The result is there when this returns."""
        values = self.values(batch, x)
        result = self._graph.result
        out = values[result.number].reshape(-1, result.size).astype(np.float32)
        return lambda: out

    def values(self, batch: Batch, x: np.ndarray | None = None) -> dict[int, np.ndarray]:
        """What every operation makes of a batch: f64[rows, heads, width], by the value's number."""
        run = Run(batch, self._memory, self._weights)
        for op in self._graph.ops:
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


def _shaped(made: np.ndarray, value: Value) -> np.ndarray:
    return made.reshape(-1, value.heads, value.width)

"""Layers that live on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cache import PageLayout, PagePool
from ...graph import Graph
from .. import Batch, Result
from .inputs import Inputs
from .launches import FEW, MAX_LOGITS, Workspace, rows_of_few
from .plan import Plan
from .weights import Upload


class CudaBackend:
    """Runs a graph on a GPU: weights, cache and values are in its memory, unless cache_in_ram."""

    max_logits: int | None = MAX_LOGITS
    n_alike = 1

    def __init__(
        self, graph: Graph, space: Workspace, n_batch: int, n_ctx: int, *types: str, cache_in_ram: bool = False
    ) -> None:
        """space: of this graph and others on the same GPU, for n_batch tokens or more; types: of keys and values."""
        self._space, self._device, self.n_batch = space, space.device, n_batch
        layout = PageLayout(graph.kv, *types)
        self.pool: PagePool | None = None
        if graph.kv:
            self.pool = PagePool(layout, self._device.pinned_zeros if cache_in_ram else self._gpu_memory, self._copy)
        self._inputs = Inputs(self._device, graph, space.n_rows, n_ctx)
        with Upload(self._device, graph.tensors) as upload:
            self._plan = Plan(graph, space, layout, self._inputs, upload)
        self._picked, self._width = graph.result.picked, graph.result.width
        self._x: np.ndarray | None = None

    def start(self, batch: Batch, x: np.ndarray | None = None) -> Result:
        """Start on a batch of at most n_batch tokens; x: what the stage before gave, f32[n_tokens, width]."""
        n, device = batch.n_tokens, self._device
        few = n <= FEW
        n_rows = rows_of_few(n) if few else self._space.rows_of_many(n)
        tables = [part.sequence.table(self.pool) for part in batch.parts] if self.pool else None
        with device.working():
            if x is not None and self._plan.input:
                device.send(self._plan.input.at, x)
            n_tasks = self._inputs.write(batch, tables, n_rows, not few)
            self._x = x  # it must stay until inputs are written again, which waits for what was sent
            if few:
                self._plan.run_few(n_rows)
            else:
                self._plan.run_many(n_rows, batch.n_logits, n_tasks)
            return device.fetch(self._plan.result.at, batch.n_logits if self._picked else n, self._width)

    def device(self, n_tokens: int) -> object:
        return self._device

    def step_cost(self, n_tokens: int) -> float:
        return 1 + (n_tokens - 1) / 32

    def close(self) -> None:
        """Nothing: memory goes with the last who holds it."""

    def _gpu_memory(self, n_bytes: int) -> tuple[Any, int]:
        memory = self._device.allocate(n_bytes)
        return memory, memory.address

    def _copy(self, to: int, source: int, n_bytes: int) -> None:
        with self._device.working():
            self._device.copy(to, source, n_bytes)
            self._device.synchronize()

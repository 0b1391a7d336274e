"""Layers that live on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...cache import PageLayout, PagePool
from ...graph import Graph
from .. import Batch
from .device import CudaDevice
from .inputs import Inputs
from .launches import FEW, MAX_LOGITS, Workspace
from .plan import Plan
from .weights import Upload


class CudaBackend:
    """Runs a graph on a GPU: weights, cache and values are in its memory, unless cache_in_ram."""

    max_logits: int | None = MAX_LOGITS

    def __init__(
        self, graph: Graph, device: CudaDevice, n_ubatch: int, n_ctx: int, k_type: str, v_type: str,
        cache_in_ram: bool = False,
    ) -> None:  # fmt: skip
        self._device, self.n_batch = device, n_ubatch
        layout = PageLayout(graph.kv, k_type, v_type)
        self.has_cache = bool(graph.kv)
        self.pool = PagePool(layout, device.pinned_zeros if cache_in_ram else self._gpu_memory, self._copy)
        self._space = Workspace(device, [graph], n_ubatch)
        self._inputs = Inputs(device, graph, self._space.n_rows, n_ctx)
        with Upload(device, graph.tensors) as upload:
            self._plan = Plan(graph, self._space, layout, self._inputs, upload)
        self._graphs: dict[int, Callable[[], None]] = {}
        self._picked, self._width = graph.result.picked, graph.result.width

    def run(self, batch: Batch, x: np.ndarray | None = None) -> np.ndarray:
        """Run one batch of at most n_batch tokens; x: what the stage before gave, f32[n_tokens, width]."""
        n, device = batch.n_tokens, self._device
        few = n <= FEW
        n_rows = 1 << (n - 1).bit_length() if few else n  # one graph for 1, 2, 4 … tokens
        tables = [part.sequence.table(self.pool) for part in batch.parts] if self.has_cache else None
        with device.working():
            n_tasks = self._inputs.write(batch, tables, n_rows, not few)
            if x is not None and self._plan.input:
                device.copy(self._plan.input.at, x.ctypes.data, x.nbytes)
            if few:
                self._run_few(n_rows)
            else:
                self._plan.run_many(n, batch.n_logits, n_tasks)
            result = device.fetch(self._plan.result.at, batch.n_logits if self._picked else n, self._width)
        return result

    def step_cost(self, n_tokens: int) -> float:
        return 1 + (n_tokens - 1) / 32

    def close(self) -> None:
        """Nothing: memory goes with the last who holds it."""

    def _run_few(self, n: int) -> None:
        """Launch what n tokens need: one by one the first time, which compiles kernels, and from then on as a graph."""
        if n in self._graphs:
            self._graphs[n]()
            return

        def launch_all() -> None:
            for launch in self._plan.one if n == 1 else self._plan.few:
                launch(n)

        launch_all()
        self._graphs[n] = self._device.capture(launch_all)

    def _gpu_memory(self, n_bytes: int) -> tuple[Any, int]:
        memory = self._device.allocate(n_bytes)
        return memory, memory.address

    def _copy(self, to: int, source: int, n_bytes: int) -> None:
        with self._device.working():
            self._device.copy(to, source, n_bytes)
            self._device.synchronize()

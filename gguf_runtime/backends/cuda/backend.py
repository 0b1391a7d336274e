"""Layers that live on a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...graph import Graph
from .. import Backend, Batch, PassResult
from ..pages import SYSTEM, Heap, KvTypes, PageLayout, PageMemory, WindowMemory
from ..states import state_memory
from .device import CudaDevice
from .inputs import CudaInputs
from .launches import FEW, MAX_LOGITS
from .plan import CudaPlan
from .program import CudaProgram
from .recurrence import state_bytes
from .upload import Upload
from .workspace import Workspace, rows_of_few

_MARGIN = 384 << 20  # bytes of a GPU that pages leave free, for kernels and what the driver takes as it goes


class CudaBackend(Backend):
    """Runs a graph on a GPU: weights, cache and values are in its memory, unless cache_in_ram."""

    max_logits: int | None = MAX_LOGITS
    windows: WindowMemory | None = None
    n_alike = 1

    def __init__(
        self, graph: Graph, space: Workspace, n_batch: int, n_ctx: int, types: KvTypes, cache_in_ram: bool = False
    ) -> None:
        """space: of this graph and others on the same GPU, for n_batch tokens or more."""
        self._space, self._device, self.n_batch = space, space.device, n_batch
        layout = PageLayout(graph.kv, types)
        self.memory: PageMemory | None = None
        if graph.kv:
            self.memory = PageMemory(layout, pinned(self._device) if cache_in_ram else on_gpu(self._device))
        self.states = state_memory(graph, state_bytes, "cuda f32", on_gpu(self._device))
        self._inputs = CudaInputs(self._device, graph, space.n_rows, n_ctx)
        states = self.states.layout if self.states else None
        with Upload(self._device, graph.tensors) as upload:
            self._program = CudaProgram(CudaPlan(graph, space, layout, states, self._inputs, upload))
        self._rows, self._width = graph.result.rows, graph.result.size
        self._x: np.ndarray | None = None

    def start(self, batch: Batch, x: np.ndarray | None = None) -> PassResult:
        """Start on a batch of at most n_batch tokens; x: what the stage before gave, f32[n_tokens, width]."""
        n, device = batch.n_tokens, self._device
        few = n <= FEW
        n_rows = rows_of_few(n) if few else self._space.rows_of_many(n)
        tables = [self.memory.table(chunk.sequence.pages) for chunk in batch.chunks] if self.memory else None
        with device.working():
            if x is not None and self._program.input:
                device.send(self._program.input.at, x)
            n_tasks = self._inputs.write(batch, tables, n_rows, not few, self.states)
            self._x = x  # it must stay until inputs are written again, which waits for what was sent
            if few:
                self._program.run_few(n_rows)
            else:
                self._program.run_many(n_rows, batch.n_logits, n_tasks, len(batch.chunks))
            rows = {"token": n, "selected": batch.n_logits, "sequence": len(batch.chunks)}[self._rows]
            return device.fetch(self._program.result.at, rows, self._width)

    def device(self, n_tokens: int) -> object:
        return self._device

    def step_cost(self, n_tokens: int) -> float:
        return 1 + (n_tokens - 1) / 32


def on_gpu(device: CudaDevice) -> Heap:
    """Pages in a GPU's memory."""

    def allocate(n_bytes: int) -> tuple[Any, int]:
        memory = device.allocate(n_bytes)
        return memory, memory.address

    return Heap(device.name, allocate, partial(_copy, device), lambda: device.free - _MARGIN)


def pinned(device: CudaDevice) -> Heap:
    """Pages in the system's memory that a GPU reads."""
    return SYSTEM._replace(allocate=device.pinned_zeros, copy=partial(_copy, device))


def _copy(device: CudaDevice, to: int, source: int, n_bytes: int) -> None:
    with device.working():
        device.copy(to, source, n_bytes)
        device.synchronize()

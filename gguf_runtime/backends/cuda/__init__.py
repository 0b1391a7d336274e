"""The CUDA backend: runs a graph on one GPU. Its modules, from the bottom up: device, weights, inputs, fuse, launches,
products and attention, plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...cache import PageLayout, PagePool
from ...graph import Attention, Graph
from .. import Batch
from .device import CudaDevice
from .inputs import Inputs
from .launches import FEW, MAX_LOGITS, workspace
from .plan import Plan
from .weights import device_bytes

__all__ = ["CudaBackend", "CudaDevice", "device_bytes", "workspace"]


class CudaBackend:
    """Runs a graph on a GPU: weights, cache and values are in its memory, unless cache_in_ram."""

    max_logits: int | None = MAX_LOGITS

    def __init__(
        self, graph: Graph, device: CudaDevice, n_ubatch: int, n_ctx: int, k_type: str, v_type: str,
        cache_in_ram: bool = False,
    ) -> None:  # fmt: skip
        self._device = device
        layout = PageLayout(graph.kv, k_type, v_type)
        self.has_cache = bool(graph.kv)
        self.pool = PagePool(layout, self._ram if cache_in_ram else self._gpu_memory, self._copy)
        group = max((op.n_heads // op.n_kv_heads for op in graph.ops if isinstance(op, Attention)), default=1)
        n_rows = max(n_ubatch, FEW)
        self._inputs = Inputs(device, graph, n_rows, n_ctx, group)
        self._plan = Plan(graph, device, layout, self._inputs, n_ubatch)
        self._graphs: dict[int, Callable[[], None]] = {}
        self._picked, self._width = graph.result.picked, graph.result.width
        self._host_input = device.pinned(self._plan.input.row_bytes * n_rows if self._plan.input else 0)

    def run(self, batch: Batch, x: np.ndarray | None = None) -> np.ndarray:
        """Run one batch of at most n_ubatch tokens; x: what the stage before gave, f32[n_tokens, width]."""
        n, device = batch.n_tokens, self._device
        n_result = batch.n_logits if self._picked else n
        few = n <= FEW
        n_rows = 1 << (n - 1).bit_length() if few else n  # one graph for 1, 2, 4 … tokens
        with device.handle, device.stream:  # CuPy has cuBLAS work in the stream that is current
            n_tasks = self._inputs.write(batch, self.pool if self.has_cache else None, n_rows, not few)
            if x is not None and self._plan.input:
                self._host_input[: x.nbytes] = x.reshape(-1).view(np.uint8)
                device.copy(self._plan.input.at, self._host_input.ctypes.data, x.nbytes)
            if few:
                self._run_few(n_rows)
            else:
                self._plan.run_many(n, batch.n_logits, n_tasks)
            result = device.pinned(4 * n_result * self._width).view(np.float32).reshape(n_result, self._width)
            device.copy(result.ctypes.data, self._plan.result.at, result.nbytes)
            device.synchronize()
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
        with self._device.handle:
            self._device.copy(to, source, n_bytes)
            self._device.synchronize()

    def _ram(self, n_bytes: int) -> tuple[Any, int]:
        memory = self._device.pinned(n_bytes)
        memory[:] = 0  # what is not written is still read, and must be no NaN
        return memory, memory.ctypes.data

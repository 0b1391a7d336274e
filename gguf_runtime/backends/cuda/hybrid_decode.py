"""Few tokens through layers in the system's memory: the CPU and the bus read them at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Protocol

import numpy as np

from ...graph import Graph
from .. import Batch
from ..cpu import CpuBackend
from ..pages import PageLayout, PageMemory
from .bus import Bus, Cargo
from .inputs import CudaInputs
from .launches import FEW
from .workspace import rows_of_few


class OnCpu(Protocol):
    """Makes a backend for layers `first` to `last` - 1 of those in RAM, whose cache is in a memory."""

    def __call__(self, first: int, last: int, n_tokens: int, memory: PageMemory | None) -> CpuBackend: ...


class Shared:
    """Runs some layers on the CPU, then one on the GPU that has come over the bus meanwhile, and so on.

    n: how many of the layers come over the bus, at equal distances; not the first one. The only cache is in
    RAM, where the GPU reads and writes it.
    """

    def __init__(
        self, n: int, layers: Sequence[Graph], on_cpu: OnCpu, memory: PageMemory | None, bus: Bus, layout: PageLayout,
        n_ctx: int,
    ) -> None:  # fmt: skip
        self.n, self._memory, self._bus, self._device = n, memory, bus, bus.device
        self._inputs = CudaInputs(bus.device, layers[-1], FEW, n_ctx)
        self._turns: list[tuple[CpuBackend | None, Cargo]] = []
        first = 0
        for i in range(n):
            last = ceil((i + 1) * len(layers) / n) - 1
            cpu = on_cpu(first, last, FEW, memory) if first < last else None
            self._turns.append((cpu, bus.cargo(layers[last], layout, self._inputs)))
            first = last + 1
        self._width = layers[-1].result.size

    def run(self, batch: Batch, x: np.ndarray | None) -> np.ndarray:
        """Run one batch of at most FEW tokens; x: what the stage before gave, f32[n_tokens, width]."""
        device, n, n_rows = self._device, batch.n_tokens, rows_of_few(batch.n_tokens)
        tables = [self._memory.table(chunk.sequence.pages) for chunk in batch.chunks] if self._memory else None
        with device.working():
            self._inputs.write(batch, tables, n_rows, False)
        for i, (cpu, cargo) in enumerate(self._turns):
            with device.working():  # all this waits on the GPU, not here
                self._bus.take(cargo)
                self._bus.send(self._turns[self._following(i)][1])
            x = cpu.run(batch, x) if cpu else x
            assert x is not None and cargo.program.input
            with device.working():
                if self._bus.unpacked is not cargo:  # another backend has used the bus meanwhile
                    self._bus.take(cargo)
                device.send(cargo.program.input.at, x)
                cargo.program.run_few(n_rows)
                x = device.fetch(cargo.program.result.at, n, self._width)()
        assert x is not None
        return x

    def _following(self, i: int) -> int:
        """Whose turn it is next to arrive in the same place, in this step or the next one."""
        return i + 2 if i + 2 < self.n else i % 2

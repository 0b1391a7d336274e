"""Layers whose weights stay in the system's memory, with a GPU to help: over the bus come all of them where tokens are
many, some of them, while the CPU is at work on the others, where tokens are few, and none where that is not faster.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial
from itertools import pairwise
from math import ceil
from time import perf_counter
from types import SimpleNamespace
from typing import cast

import numpy as np

from ...graph import Graph, join
from .. import Batch, Chunk, PassResult, Sequence, in_passes
from ..errors import PlanError
from ..pages import KvTypes, PageLayout, PageMemory, WindowMemory
from ..states import StateMemory
from .backend import pinned
from .bus import Bus, Cargo, room_for
from .hybrid_decode import OnCpu, Shared
from .inputs import CudaInputs
from .kv_staging import Mirror
from .launches import FEW
from .weights import device_bytes

_TRIAL = 32  # tokens with which the two ways of a prompt are compared


def streaming_bytes(layers: Items[Graph], n_ctx: int, types: KvTypes) -> int:
    """Bytes of a GPU that streaming these layers takes, beside a workspace."""
    vectors = sum(device_bytes(t) for graph in layers for t in graph.tensors if len(t.shape) == 1)
    return room_for(layers, n_ctx, types).n_bytes + vectors


class StreamingBackend:
    """Runs layers in RAM: on the CPU, or from `least` tokens on by streaming their weights to a GPU.

    layers: a graph for each, or for a part of it, which follow each other. The only cache is in RAM: a layer's keys and
    values come to the GPU for its attention, and what is new goes back. `measure` finds out when the bus is worth its
    while; before that, all runs on the CPU. following: what comes over the bus next, in another backend.
    """

    max_logits: int | None = None
    windows: WindowMemory | None = None
    states: StateMemory | None = None
    n_alike = 1

    def __init__(
        self, layers: Items[Graph], on_cpu: OnCpu, n_ubatch: int, bus: Bus, n_ctx: int, types: KvTypes
    ) -> None:
        """n_ubatch: tokens of a pass on the CPU. Raises PlanError."""
        self._device, self._n_ubatch, self.n_batch, self.least = bus.device, n_ubatch, bus.space.n_tokens, 0
        whole = join(layers)
        self._layout = PageLayout(whole.kv, types)
        self.memory = PageMemory(self._layout, pinned(self._device)) if whole.kv else None
        self._graphs, self._on_cpu, self._bus, self._n_ctx = layers, on_cpu, bus, n_ctx
        self._cpu = on_cpu(0, len(layers), n_ubatch, self.memory)
        self._inputs = inputs = CudaInputs(self._device, whole, bus.space.n_rows, n_ctx)
        layouts = [PageLayout(graph.kv, types) for graph in layers]  # of a layer's own pages, in the mirror
        page_bytes = max(layout.n_bytes for layout in layouts)
        self._mirror = Mirror(self._device, self.memory, bus.pages, page_bytes) if self.memory else None
        self._cargo = [bus.cargo(graph, layout, inputs) for graph, layout in zip(layers, layouts, strict=True)]
        self.following: Cargo | None = None
        for before, after in pairwise(cargo.program for cargo in self._cargo):
            if before.result != after.input:
                raise PlanError("layers whose results do not lie where the next one reads: they cannot be streamed yet")
        self._shared: Shared | None = None
        self._pinned = self._device.pin([])
        self._width = layers[-1].result.size

    @property
    def first(self) -> Cargo:
        """What comes over the bus first."""
        return self._cargo[0]

    @property
    def n_shared(self) -> int:
        """How many layers come over the bus for few tokens."""
        return self._shared.n if self._shared else 0

    def start(self, batch: Batch, x: np.ndarray | None = None) -> PassResult:
        """Run one batch of at most n_batch tokens; x: what the stage before gave, f32[n_tokens, width]."""
        result = self._run(batch, x)
        return lambda: result

    def _run(self, batch: Batch, x: np.ndarray | None) -> np.ndarray:
        if self.least and batch.n_tokens >= self.least and (not self._mirror or self._mirror.holds(batch)):
            return self._stream(batch, x, self._cargo)
        if self._shared and batch.n_tokens <= FEW:
            return self._shared.run(batch, x)
        return np.concatenate(in_passes(self._cpu.run, batch, x, self._n_ubatch))

    def device(self, n_tokens: int) -> object:
        return self._device if self.least and n_tokens >= self.least else self._cpu.device(n_tokens)

    def step_cost(self, n_tokens: int) -> float:
        return self._cpu.step_cost(min(n_tokens, self.least or n_tokens))

    def note(self) -> str:
        shared = f", and {self.n_shared} layers for fewer" if self.n_shared else ""
        return f"for {self.least} tokens and more{shared}"

    def close(self) -> None:
        self._pinned.close()

    def measure(self, like: StreamingBackend | None = None) -> None:
        """Find out from how many tokens on the bus is faster than the CPU, and whether both are when tokens are few.

        like: one that has been measured, so that there is nothing left to find out for a single layer.
        """
        self._pinned = self._device.pin([tensor.data for cargo in self._cargo for _, tensor in cargo.sources])
        if like and len(self._cargo) == 1:
            self.least = like.least
            return
        x = np.random.default_rng(0).standard_normal((_TRIAL, self._width), np.float32)
        some, one = self._cargo[:2], self._on_cpu(0, 1, _TRIAL, self.memory)
        stream = self._seconds(_TRIAL, partial(self._stream, x=x, layers=some)) / len(some)
        self.least = max(2, ceil(_TRIAL * stream / self._seconds(_TRIAL, partial(one.run, x=x))))
        if self._pinned:  # else the bus needs the CPU
            x = x[:1]
            alone = self._seconds(1, partial(self._cpu.run, x=x))
            self.share(self._balance(stream, alone, x))
            if self._shared and self._seconds(1, partial(self._shared.run, x=x)) > alone:
                self.share(0)

    def share(self, n: int) -> None:
        """Have n of the layers come over the bus when tokens are few."""
        self._shared = None
        if n:
            self._shared = Shared(n, self._graphs, self._on_cpu, self.memory, self._bus, self._layout, self._n_ctx)

    def _balance(self, stream: float, alone: float, x: np.ndarray) -> int:
        """How many layers to share so that the bus is as soon through with its layers as the CPU with the others.

        stream, alone: seconds of a layer over the bus, and of all on the CPU; here both are measured at the same time,
        since they may read the same memory.
        """
        n_layers, n_sent = len(self._graphs), ceil(1.2 * alone / stream) + 1
        times = []

        def both(batch: Batch) -> None:
            start = perf_counter()
            with self._device.working():
                for i in range(n_sent):
                    self._bus.take(self._cargo[i % n_layers])
            self._cpu.run(batch, x)
            times.append(perf_counter() - start)
            self._device.synchronize()

        on_bus = self._seconds(1, both) / n_sent
        on_cpu = min(times) / n_layers
        return min(int(n_layers * on_cpu / (on_cpu + on_bus)), n_layers - 1)  # the first layer is the CPU's

    def _stream(self, batch: Batch, x: np.ndarray | None, layers: Items[Cargo]) -> np.ndarray:
        """All layers on the GPU, each of which comes over the bus while the one before it is at work."""
        device, n = self._device, batch.n_tokens
        n_rows = self._bus.space.rows_of_many(n)
        with device.working():
            self._bus.send(layers[0])
            n_tasks = self._inputs.write(batch, self._mirror.tables(batch) if self._mirror else None, n_rows, True)
            first, last = layers[0].program, layers[-1].program
            if x is not None and first.input:
                device.send(first.input.at, x)
            for i, layer in enumerate(layers):
                if i + 1 < len(layers):
                    self._bus.send(layers[i + 1])
                self._bus.take(layer)
                if i + 1 == len(layers) and self.following:
                    self._bus.send_ahead(self.following)
                if layer.page and self._mirror:
                    number, n_bytes = layer.page
                    at = self._layout.k_offset[number]
                    self._mirror.load(batch, at, n_bytes)
                    layer.program.run_many(n_rows, 0, n_tasks, len(batch.chunks))
                    self._mirror.save(batch, at, n_bytes)
                else:
                    layer.program.run_many(n_rows, 0, n_tasks, len(batch.chunks))
            return device.fetch(last.result.at, n, self._width)()

    def _seconds(self, n_tokens: int, run: Callable[[Batch], object]) -> float:
        """How long a batch of some tokens takes, once all that it needs is there."""
        if self.memory:
            self.memory.extend_to(1)
        first_page = cast(Sequence, SimpleNamespace(pages=np.zeros(1, np.int32), window_pages=np.zeros(0, np.int32)))
        batch = Batch([Chunk(first_page, np.zeros(n_tokens, np.int32), 0)])
        times = []
        for _ in range(3):
            start = perf_counter()
            run(batch)
            times.append(perf_counter() - start)
        return min(times)

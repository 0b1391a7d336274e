"""Layers whose weights stay in the system's memory, with a GPU to help: over the bus come all of them where tokens are
many, some of them, while the CPU is at work on the others, where tokens are few, and none where that is not faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import ceil
from time import perf_counter

import numpy as np

from ... import cache
from ...cache import PageLayout, PagePool
from ...graph import Graph
from .. import Batch, Part, in_passes
from ..plan import PlanError
from .bus import Bus, Cargo, room_for
from .inputs import Inputs
from .launches import FEW, Workspace
from .mirror import Mirror, n_pages
from .sharing import OnCpu, Shared
from .weights import device_bytes

_TRIAL = 32  # tokens with which the two ways of a prompt are compared


def streaming_bytes(layers: Sequence[Graph], n_ctx: int, k_type: str, v_type: str) -> int:
    """Bytes of a GPU that streaming these layers takes, beside a workspace."""
    vectors = sum(device_bytes(t) for graph in layers for t in graph.tensors if len(t.shape) == 1)
    return room_for(layers).n_bytes + n_pages(n_ctx) * _page(layers, k_type, v_type) + vectors


def _page(layers: Sequence[Graph], k_type: str, v_type: str) -> int:
    """Bytes of the largest page of one layer."""
    return max(PageLayout(graph.kv, k_type, v_type).n_bytes for graph in layers)


class StreamingBackend:
    """Runs layers in RAM: on the CPU, or from `least` tokens on by streaming their weights to a GPU.

    layers: a graph for each, which follow each other. The only cache is in RAM: a layer's keys and values come to the
    GPU for its attention, and what is new goes back. `measure` finds out when the bus is worth its while; before that,
    all runs on the CPU.
    """

    max_logits: int | None = None
    has_cache = True

    def __init__(
        self, layers: Sequence[Graph], on_cpu: OnCpu, n_ubatch: int, space: Workspace, n_ctx: int, *types: str
    ) -> None:
        """n_ubatch: tokens of a pass on the CPU; space: made for these layers and others on the same GPU; types: of
        keys and values. Raises PlanError.
        """
        self._device, self._n_ubatch, self.n_batch, self.least = space.device, n_ubatch, space.n_tokens, 0
        layout = PageLayout({i: shape for graph in layers for i, shape in graph.kv.items()}, *types)
        self.pool = PagePool(layout, self._device.pinned_zeros)
        self._graphs, self._on_cpu, self._space, self._n_ctx = layers, on_cpu, space, n_ctx
        self._cpu = on_cpu(0, len(layers), n_ubatch, self.pool)
        self._inputs = inputs = Inputs(self._device, layers[0], space.n_rows, n_ctx)
        self._mirror = Mirror(self._device, self.pool, n_pages(n_ctx), _page(layers, *types))
        self._bus = bus = Bus(self._device, room_for(layers))
        layouts = [PageLayout(graph.kv, *types) for graph in layers]  # of a layer's own pages, in the mirror
        self._cargo = [bus.cargo(layers[i], i, space, layout, inputs) for i, layout in enumerate(layouts)]
        for before, after in pairwise(cargo.plan for cargo in self._cargo):
            if before.result != after.input:
                raise PlanError("layers whose results do not lie where the next one reads: they cannot be streamed yet")
        self._shared: Shared | None = None
        self._pinned = self._device.pin([])
        self._width = layers[-1].result.width

    @property
    def n_shared(self) -> int:
        """How many layers come over the bus for few tokens."""
        return self._shared.n if self._shared else 0

    def run(self, batch: Batch, x: np.ndarray | None = None) -> np.ndarray:
        """Run one batch of at most n_batch tokens; x: what the stage before gave, f32[n_tokens, width]."""
        if self.least and batch.n_tokens >= self.least and self._mirror.holds(batch):
            return self._stream(batch, x, self._cargo)
        if self._shared and batch.n_tokens <= FEW:
            return self._shared.run(batch, x)
        return np.concatenate(in_passes(self._cpu.run, batch, x, self._n_ubatch))

    def step_cost(self, n_tokens: int) -> float:
        return self._cpu.step_cost(min(n_tokens, self.least or n_tokens))

    def close(self) -> None:
        self._pinned.close()

    def measure(self) -> None:
        """Find out from how many tokens on the bus is faster than the CPU, and whether both are when tokens are few."""
        self._pinned = self._device.pin([tensor.data for cargo in self._cargo for _, tensor in cargo.sources])
        x = np.random.default_rng(0).standard_normal((_TRIAL, self._width), np.float32)
        some, one = self._cargo[:2], self._on_cpu(0, 1, _TRIAL, self.pool)
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
            self._shared = Shared(n, self._graphs, self._on_cpu, self.pool, self._bus, self._space, self._n_ctx)

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

    def _stream(self, batch: Batch, x: np.ndarray | None, layers: Sequence[Cargo]) -> np.ndarray:
        """All layers on the GPU, each of which comes over the bus while the one before it is at work."""
        device, n = self._device, batch.n_tokens
        with device.working():
            self._bus.send(layers[0])
            n_tasks = self._inputs.write(batch, self._mirror.tables(batch), n, True)
            first, last = layers[0].plan, layers[-1].plan
            if x is not None and first.input:
                device.copy(first.input.at, x.ctypes.data, x.nbytes)
            for i, layer in enumerate(layers):
                if i + 1 < len(layers):
                    self._bus.send(layers[i + 1])
                self._bus.take(layer)
                number, n_bytes = layer.page
                at = self.pool.layout.k_offset[number]
                self._mirror.load(batch, at, n_bytes)
                layer.plan.run_many(n, 0, n_tasks)
                self._mirror.save(batch, at, n_bytes)
            return device.fetch(last.result.at, n, self._width)

    def _seconds(self, n_tokens: int, run: Callable[[Batch], object]) -> float:
        """How long a batch of some tokens takes, once all that it needs is there."""
        sequence = cache.Sequence([self.pool])
        sequence.grow(n_tokens)
        batch = Batch([Part(sequence, np.zeros(n_tokens, np.int32), 0, 0)])
        times = []
        for _ in range(3):
            start = perf_counter()
            run(batch)
            times.append(perf_counter() - start)
        sequence.release()
        return min(times)

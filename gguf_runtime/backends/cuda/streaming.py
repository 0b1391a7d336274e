"""Layers whose weights stay in the system's memory: few tokens run on the CPU; many on the GPU, to which the weights
come over the bus, a layer at a time, each while the one before it is at work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import ceil
from time import perf_counter

import numpy as np

from ... import cache
from ...cache import PageLayout, PagePool
from ...graph import Graph
from ...kernels.cuda.formats import FORMATS, tiled_bytes
from ...kernels.layout import PAGE
from ...loader import Tensor
from .. import Batch, Part, in_passes
from ..cpu import CpuBackend
from ..plan import PlanError
from .device import CudaDevice, Memory
from .fuse import fuse
from .inputs import Inputs
from .launches import Workspace, matrices_of, up, workspace_bytes
from .plan import Plan
from .weights import Matrix, device_bytes, matrix_type, n_columns, tilings

_TOKENS = 2048  # in a pass: about as many as keep the GPU busy while a layer comes over the bus
_TRIAL = 32  # tokens with which the two ways are compared
_ALIGNED = 256


def streaming_bytes(layers: Sequence[Graph], n_ubatch: int, n_ctx: int, k_type: str, v_type: str) -> int:
    """Bytes of a GPU that streaming these layers takes."""
    raw, tiled, page = _largest(layers, k_type, v_type)
    vectors = sum(device_bytes(t) for graph in layers for t in graph.tensors if len(t.shape) == 1)
    return 2 * raw + tiled + _n_pages(n_ctx) * page + vectors + workspace_bytes(layers, _n_tokens(n_ubatch, n_ctx))


def _largest(layers: Sequence[Graph], k_type: str, v_type: str) -> tuple[int, int, int]:
    """Bytes of the largest layer: as the file has it, and in tiles; and of the largest page of one layer."""
    raw = tiled = page = 0
    for graph in layers:
        matrices = [[op.weight for op in group] for item in fuse(graph.ops) for group in matrices_of(item)]
        raw = max(raw, sum(up(t.n_bytes, _ALIGNED) for tensors in matrices for t in tensors))
        tiled = max(tiled, sum(up(_tiled(tensors), _ALIGNED) for tensors in matrices))
        page = max(page, PageLayout(graph.kv, k_type, v_type).n_bytes)
    return raw, tiled, page


def _tiled(tensors: Sequence[Tensor]) -> int:
    return tiled_bytes(FORMATS[matrix_type(tensors[0])], sum(t.shape[0] for t in tensors), tensors[0].shape[1])


def _n_pages(n_ctx: int) -> int:
    """Pages on the GPU: a sequence's whole context, or the beginnings of several."""
    return -(-n_ctx // PAGE) + 1


def _n_tokens(n_ubatch: int, n_ctx: int) -> int:
    return max(n_ubatch, min(_TOKENS, n_ctx))


class StreamingBackend:
    """Runs layers on the CPU, or from `least` tokens on by streaming their weights to a GPU.

    layers: a graph for each, which follow each other; cpu: a backend for all of them, whose cache is the only one: a
    layer's keys and values come to the GPU for its attention, and what is new goes back. `least` is measured by
    `compare`; before that, nothing streams.
    """

    max_logits: int | None = None

    def __init__(
        self, cpu: CpuBackend, layers: Sequence[Graph], device: CudaDevice, n_ubatch: int, n_ctx: int
    ) -> None:
        self._cpu, self._device, self.least = cpu, device, 0
        self._n_ubatch, self.has_cache, self.n_batch = n_ubatch, True, _n_tokens(n_ubatch, n_ctx)
        cpu.pool = self.pool = PagePool(cpu.pool.layout, device.pinned_zeros)
        types = cpu.pool.layout.k_type, cpu.pool.layout.v_type
        raw, tiled, page = _largest(layers, *types)
        self._space = Workspace(device, layers, self.n_batch)
        self._inputs = Inputs(device, layers[0], self._space.n_rows, n_ctx)
        self._mirror = _Mirror(device, _n_pages(n_ctx), page)
        self._raw, tiles = [device.allocate(raw) for _ in range(2)], device.allocate(tiled)
        self._layers = [
            _Layer(graph, PageLayout(graph.kv, *types), self._space, self._inputs, self._raw[i % 2], tiles)
            for i, graph in enumerate(layers)
        ]
        for before, after in pairwise(layer.plan for layer in self._layers):
            if before.result != after.input:
                raise PlanError("layers whose results do not lie where the next one reads: they cannot be streamed yet")
        self._arrived, self._unpacked = ([device.event() for _ in range(2)] for _ in range(2))
        self._pinned = device.pin([])
        self._width = layers[-1].result.width

    def run(self, batch: Batch, x: np.ndarray | None = None) -> np.ndarray:
        """Run one batch of at most n_batch tokens; x: what the stage before gave, f32[n_tokens, width]."""
        if self.least and batch.n_tokens >= self.least and self._mirror.holds(batch):
            return self._stream(batch, x, self._layers)
        return np.concatenate(in_passes(self._cpu.run, batch, x, self._n_ubatch))

    def step_cost(self, n_tokens: int) -> float:
        return self._cpu.step_cost(min(n_tokens, self.least or n_tokens))

    def close(self) -> None:
        self._pinned.close()

    def compare(self, one_layer: Callable[[int], CpuBackend]) -> None:
        """Measure from how many tokens on the bus is faster than the CPU.

        one_layer(n_ubatch): a backend for the first layer on the CPU.
        """
        self._pinned = self._device.pin([tensor.data for layer in self._layers for _, tensor in layer.sources])
        x = np.random.default_rng(0).standard_normal((_TRIAL, self._width), np.float32)
        two = self._layers[:2]
        stream = _seconds(lambda batch: self._stream(batch, x, two), self.pool) / len(two)
        cpu = one_layer(_TRIAL)
        compute = _seconds(lambda batch: cpu.run(batch, x), cpu.pool)
        self.least = max(2, ceil(_TRIAL * stream / compute))

    def _stream(self, batch: Batch, x: np.ndarray | None, layers: Sequence[_Layer]) -> np.ndarray:
        device, n = self._device, batch.n_tokens
        with device.working():
            self._send(layers, 0)
            n_tasks = self._inputs.write(batch, self._mirror.tables(batch), n, True)
            first, last = layers[0].plan, layers[-1].plan
            if x is not None and first.input:
                device.copy(first.input.at, x.ctypes.data, x.nbytes)
            for i, layer in enumerate(layers):
                self._send(layers, i + 1)
                device.stream.wait_event(self._arrived[i % 2])
                layer.unpack()
                self._unpacked[i % 2].record(device.stream)
                at = self.pool.layout.k_offset[layer.number]
                self._mirror.load(batch, self.pool, at, layer.page_bytes)
                layer.plan.run_many(n, 0, n_tasks)
                self._mirror.save(batch, self.pool, at, layer.page_bytes)
            return device.fetch(last.result.at, n, self._width)

    def _send(self, layers: Sequence[_Layer], i: int) -> None:
        """Have the bus bring layer i, once the layer that was in its place is in tiles."""
        if i < len(layers):
            self._device.bus.wait_event(self._unpacked[i % 2])
            for at, tensor in layers[i].sources:
                self._device.send(at, tensor.data, self._device.bus)
            self._arrived[i % 2].record(self._device.bus)


class _Layer:
    """A layer's launches. sources: its weights, and where they arrive as they are in the file."""

    def __init__(
        self, graph: Graph, layout: PageLayout, space: Workspace, inputs: Inputs, raw: Memory, tiles: Memory
    ) -> None:
        (self.number,), self.page_bytes = graph.kv, layout.n_bytes
        self.sources: list[tuple[int, Tensor]] = []
        self._device, self._tiles, self._raw_at, self._tiles_at = space.device, tiles, raw.address, tiles.address
        self._tilings: list[Callable[[], None]] = []
        self.plan = Plan(graph, space, layout, inputs, self._matrix)

    def unpack(self) -> None:
        """Put what has arrived into tiles."""
        for launch in self._tilings:
            launch()

    def _matrix(self, tensors: Sequence[Tensor]) -> Matrix:
        """The next places for these tensors, as they arrive and as one matrix in tiles."""
        n_rows, n_bytes = [tensor.shape[0] for tensor in tensors], _tiled(tensors)
        memory = Memory(self._tiles_at, n_bytes, self._tiles.owner)
        matrix = Matrix(matrix_type(tensors[0]), sum(n_rows), n_columns(tensors[0]), memory)
        self._tiles_at += up(n_bytes, _ALIGNED)
        for tensor, end in zip(tensors, accumulate(n_rows), strict=True):
            self._tilings += tilings(self._device, tensor, self._raw_at, matrix, end - tensor.shape[0])
            self.sources.append((self._raw_at, tensor))
            self._raw_at += up(tensor.n_bytes, _ALIGNED)
        return matrix


class _Mirror:
    """Keys and values of the layer at work, on the GPU: of each sequence of a batch its pages, one after another."""

    def __init__(self, device: CudaDevice, n_pages: int, page_bytes: int) -> None:
        self._device, self._n_pages, self._page_bytes = device, n_pages, page_bytes
        self._memory = device.allocate(n_pages * page_bytes)

    def holds(self, batch: Batch) -> bool:
        return sum(map(_pages_of, batch.parts)) <= self._n_pages

    def tables(self, batch: Batch) -> list[np.ndarray]:
        """Addresses of each part's pages."""
        ends = list(accumulate(map(_pages_of, batch.parts)))
        pages = self._memory.address + self._page_bytes * np.arange(ends[-1])
        return np.split(pages, ends[:-1])

    def load(self, batch: Batch, pool: PagePool, at: int, n_bytes: int) -> None:
        """Fetch what is there from before the batch. at, n_bytes: where the layer is in a page of the pool."""
        for part, table in zip(batch.parts, self.tables(batch), strict=True):
            pages = part.sequence.table(pool)
            for i in range(-(-part.position // PAGE)):
                self._device.copy(int(table[i]), int(pages[i]) + at, n_bytes)

    def save(self, batch: Batch, pool: PagePool, at: int, n_bytes: int) -> None:
        """Bring the pages to the pool in which the batch has put something."""
        for part, table in zip(batch.parts, self.tables(batch), strict=True):
            pages = part.sequence.table(pool)
            for i in range(part.position // PAGE, _pages_of(part)):
                self._device.copy(int(pages[i]) + at, int(table[i]), n_bytes)


def _pages_of(part: Part) -> int:
    return -(-(part.position + len(part.tokens)) // PAGE)


def _seconds(run: Callable[[Batch], object], pool: PagePool) -> float:
    """How long a batch of _TRIAL tokens takes, once all that it needs is there."""
    sequence = cache.Sequence([pool])
    sequence.grow(_TRIAL)
    batch = Batch([Part(sequence, np.zeros(_TRIAL, np.int32), 0, 0)])
    times = []
    for _ in range(3):
        start = perf_counter()
        run(batch)
        times.append(perf_counter() - start)
    sequence.release()
    return min(times)

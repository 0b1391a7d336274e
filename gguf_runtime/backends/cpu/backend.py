"""The CPU backend: runs a graph's programs of kernels on the threads, one batch at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from ...graph import Graph
from ...kernels.layout import PAGE, SCRATCH
from ...kernels.library import Library, aligned
from ...kernels.memory import address
from ...kernels.thread_pool import Program, ThreadPool
from ...operations import Attention
from .. import Backend, Batch, Chunk, Device, PassResult, Settings
from ..host import HostDevice
from ..pages import KvTypes, PageLayout, PageMemory, WindowMemory
from ..states import state_memory
from . import operations
from .buffers import FEW, ROWWISE, Buffers
from .inputs import CpuInputs
from .logits import Ranking
from .plan import CpuPlan
from .writer import KernelCall, size_of

_TASK_ROWS = 48  # rows (heads × tokens) that make a good attention task: they share each key that is loaded
#: A pass over so few tokens is short, so not to be interrupted; attention is exact, and cut along a long context.
_SHORT = 16
_SPAN, _MOST_SPANS = 4, 64  # pages of a span at least, and how many there may be
_NO_PAGES = np.zeros(0, np.int64)
_SAME_SPAN = _MOST_SPANS * PAGE  # tokens, after a multiple of which spans are longer


class Cpu(HostDevice):
    """The CPU as a device: its threads, and memory for their work, which all stages on it share, one at a time."""

    def __init__(self, n_threads: int, name: str = "CPU") -> None:
        super().__init__(name, f"{n_threads} threads")
        self.library, self._n_threads = Library(), n_threads
        self._pool: ThreadPool | None = None
        self.lock = threading.Lock()
        self.scratch = aligned(n_threads * SCRATCH)
        self._buffers: dict[int, Buffers] = {}
        self._ranking: Ranking | None = None

    @property
    def threads(self) -> ThreadPool:
        """Made when first used, as its kernels are compiled with those of the first graph; others after a fork."""
        self._pool = self._pool or ThreadPool(self.library, self._n_threads)
        return self._pool

    @property
    def ranking(self) -> Ranking:
        """The same; to be used only by who has the lock."""
        self._ranking = self._ranking or Ranking(self.library, self.threads, self.scratch)
        return self._ranking

    def best(self, rows: np.ndarray, k: int) -> np.ndarray:
        with self.lock:
            return self.ranking.best(rows, k)

    def normalizers(self, rows: np.ndarray) -> np.ndarray:
        with self.lock:
            return self.ranking.normalizers(rows)

    def compile(
        self,
        graphs: Sequence[Graph],
        settings: Settings,
        streamed: Sequence[Sequence[Graph]] = (),
        host: Device | None = None,
    ) -> list[Backend]:
        assert not streamed
        return [CpuBackend(graph, self, settings.n_tokens, settings.kv) for graph in graphs]

    def compile_encoder(self, graph: Graph, settings: Settings, decoder: Backend) -> Backend:
        return CpuBackend(graph, self, settings.n_tokens, settings.kv, decoder.memory)

    def after_fork(self) -> None:
        """This process is a child, which has none of the threads; most children need none."""
        self._pool = self._ranking = None
        self.lock = threading.Lock()

    def buffers(self, n_ubatch: int) -> Buffers:
        """Memory for values of so many tokens; to be used only by who has the lock."""
        return self._buffers.setdefault(n_ubatch, Buffers(n_ubatch, self.library.isa))

    def close(self) -> None:
        if self._pool:
            self._pool.close()


class CpuBackend(Backend):
    """Runs a graph on the CPU. Compiles the kernels that it needs; holds the KV pages."""

    max_logits: int | None = None
    n_alike = ROWWISE

    def __init__(
        self, graph: Graph, cpu: Cpu, n_ubatch: int, types: KvTypes, memory: PageMemory | None = None
    ) -> None:
        """memory: one that others share whose layers are in its pages too; by default there is one for this graph."""
        self._cpu, library = cpu, cpu.library
        self.n_batch = n_ubatch
        self._selected = graph.result.rows != "token"
        kv, slots = graph.kv, graph.slots
        windows = [] if memory else [slot for slot in kv if slots[slot].kind == "window"]
        window_layout = PageLayout({slot: kv.pop(slot) for slot in windows}, types)
        layout = memory.layout if memory else PageLayout(kv, types)
        self.memory = (memory or PageMemory(layout)) if kv else None
        window = max((slots[slot].window for slot in windows), default=0)
        self.windows = WindowMemory(window_layout, window) if windows else None
        self.states = state_memory(graph, operations.state_bytes, "cpu f32")
        self._tables: list[tuple[np.ndarray, np.ndarray]] = []  # of the batch at work
        self._inputs = CpuInputs(graph, n_ubatch, _SHORT, _MOST_SPANS, cpu.scratch)
        layouts, buffers = (layout, window_layout), cpu.buffers(n_ubatch)
        self._plan = CpuPlan(graph, layouts, self.states, self._inputs, buffers, library.isa)
        others = Ranking.KERNELS if graph.result.rows == "selected" else ()
        library.load([*operations.first_kernels(self._plan), *ThreadPool.KERNELS, *others])
        self._programs: dict[tuple[ThreadPool, int, int, bool], Program] = {}
        self._causal = all(op.causal or op.source for op in graph.ops if isinstance(op, Attention))
        group = max((op.q.heads // op.kv_heads for op in graph.ops if isinstance(op, Attention)), default=1)
        self._task_tokens = max(1, _TASK_ROWS // group + 4 & -8)  # a multiple of 8: tokens in lanes share cache lines

    def start(self, batch: Batch, x: np.ndarray | None = None) -> PassResult:
        """The same as run: the result is there."""
        result = self.run(batch, x)
        return lambda: result

    def run(self, batch: Batch, x: np.ndarray | None = None) -> np.ndarray:
        """Run one batch of at most n_batch tokens; x: what the stage before gave, f32[n_tokens, width]."""
        self._fill(batch)
        variant = size_of(batch.n_tokens), min(size_of(batch.n_logits), FEW), bool(self._inputs.n_splits[0])
        threads = self._cpu.threads
        if (key := (threads, *variant)) not in self._programs:
            written = operations.write(self._plan, *variant)
            if not self._cpu.library.has(step.kernel for step in written):
                self._cpu.library.load(operations.kernels(self._plan), quiet=True)
            self._programs[key] = self._program(threads, written)
        with self._cpu.lock:
            if x is not None and self._plan.input is not None:
                self._plan.input[: len(x)] = x
            threads.run(self._programs[key], here=batch.n_tokens <= _SHORT)
            return self._plan.result[: batch.n_logits if self._selected else batch.n_tokens].copy()

    def device(self, n_tokens: int) -> object:
        return self._cpu

    def step_cost(self, n_tokens: int) -> float:
        return 0.6 + 0.4 * n_tokens if n_tokens <= ROWWISE else 2 + n_tokens / 6  # measured on all types

    def _program(self, threads: ThreadPool, steps: list[KernelCall]) -> Program:
        calls = [self._cpu.library.get(step.kernel).bind(**step.arguments) for step in steps]
        products = [step.arguments if "n_rows" in step.arguments else {} for step in steps]
        weights = [arguments.get("weights", arguments.get("gate")) for arguments in products]
        return threads.program(calls, [step.barrier for step in steps], weights)

    def _fill(self, batch: Batch) -> None:
        """Write what the kernels read of a batch: ids, angles, places in the cache, wanted rows, attention's tasks."""
        inputs, first, n_logits = self._inputs, 0, 0
        positions = np.concatenate([np.arange(c.position, c.position + len(c.tokens)) for c in batch.chunks])
        self._tables = [self._addresses(chunk) for chunk in batch.chunks]
        for i, (_, tokens, wanted, _) in enumerate(batch.chunks):
            n = len(tokens)
            inputs.ids[first : first + n] = tokens
            at = positions[first : first + n]
            for places, table in zip((inputs.places, inputs.window_places), self._tables[i], strict=True):
                if len(table):
                    places.slots[first : first + n, 0] = table[at // PAGE]
                    places.slots[first : first + n, 1] = at % PAGE
            inputs.tables[first : first + n] = address(self._tables[i][0])
            inputs.rows[n_logits : n_logits + wanted] = np.arange(first + n - wanted, first + n)
            inputs.first_rows[n_logits : n_logits + wanted] = first
            first, n_logits = first + n, n_logits + wanted
        inputs.n_tokens[0], inputs.n_logits[0] = first, n_logits
        if self.memory or self.windows:
            self._fill_blocks(batch)
            if len(inputs.source_blocks):
                self._fill_source_blocks(batch)
        if self.states:
            inputs.write_states(batch, self.states)
        inputs.write_positions(positions)

    def _addresses(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Of a sequence's pages, and of those of layers that see only a window: none where there is no memory."""
        tables = (self.memory, chunk.sequence.pages), (self.windows, chunk.sequence.window_pages)
        pages, windows = (memory.table(numbers) if memory else _NO_PAGES for memory, numbers in tables)
        return pages, windows

    def _fill_blocks(self, batch: Batch) -> None:
        """Cut the batch into tasks for attention; where tokens are few, also along a long context."""
        inputs, first = self._inputs, 0
        blocks: list[tuple[int, ...]] = []
        splits: list[tuple[int, ...]] = []
        row = 0
        windows: list[int] = []
        for (pages, window_pages), (_, tokens, _, position) in zip(self._tables, batch.chunks, strict=True):
            table = address(pages)
            start = n = 0
            while (start := start + n) < len(tokens):
                n = min(self._task_tokens, len(tokens) - start)
                if batch.n_tokens <= _SHORT:  # spans as long as those of each token alone
                    n = min(n, _SAME_SPAN - (position + start) % _SAME_SPAN)
                task = table, first + start, n, position + start
                n_keys = position + len(tokens)
                n_pages = ((position + start + n if self._causal else n_keys) - 1) // PAGE + 1
                span = max(_SPAN, -(-n_pages // _MOST_SPANS))
                if batch.n_tokens > _SHORT or n_pages <= span:
                    blocks.append((*task, 0, n_pages, -1, len(tokens) > _SHORT, n_keys))
                    continue
                spans = range(0, n_pages, span)
                splits.append((first + start, n, row, len(spans)))
                for page in spans:
                    blocks.append((*task, page, min(page + span, n_pages), row, 0, n_keys))
                    row += n
            first += len(tokens)
            windows += [address(window_pages)] * (len(blocks) - len(windows))
        inputs.places.blocks[: len(blocks)] = inputs.window_places.blocks[: len(blocks)] = blocks
        inputs.window_places.blocks[: len(blocks), 0] = windows
        inputs.splits[: len(splits)] = splits or np.empty((0, 4), np.int64)
        inputs.n_blocks[0], inputs.n_splits[0] = len(blocks), len(splits)

    def _fill_source_blocks(self, batch: Batch) -> None:
        """The same for attention to source texts, all of which each token sees."""
        blocks: list[tuple[int, ...]] = []
        first = 0
        for (pages, _), (sequence, tokens, _, _) in zip(self._tables, batch.chunks, strict=True):
            table, n_pages = address(pages), -(-sequence.n_source // PAGE)
            for start in range(0, len(tokens), self._task_tokens):
                n = min(self._task_tokens, len(tokens) - start)
                blocks.append((table, first + start, n, 0, 0, n_pages, -1, len(tokens) > _SHORT, sequence.n_source))
            first += len(tokens)
        self._inputs.source_blocks[: len(blocks)] = blocks
        self._inputs.n_source_blocks[0] = len(blocks)

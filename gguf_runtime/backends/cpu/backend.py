"""The CPU backend: runs a graph's programs of kernels on the threads, one batch at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from ... import memory
from ...graph import Graph
from ...kernels.layout import PAGE, SCRATCH
from ...kernels.library import Library, aligned
from ...kernels.memory import address
from ...kernels.thread_pool import Program, ThreadPool
from ...loader import Tensor
from ...operations import Attention
from .. import Backend, Batch, Device, Result, Settings
from ..pages import PageLayout, PageMemory
from ..states import state_memory
from . import operations
from .buffers import FEW, ROWWISE, Buffers
from .inputs import Inputs
from .plan import Plan
from .writer import Step, size_of

_TASK_ROWS = 48  # rows (heads × tokens) that make a good attention task: they share each key that is loaded
#: A pass over so few tokens is short, so not to be interrupted; attention is exact, and cut along a long context.
_SHORT = 16
_SPAN, _MOST_SPANS = 4, 64  # pages of a span at least, and how many there may be
_SAME_SPAN = _MOST_SPANS * PAGE  # tokens, after a multiple of which spans are longer


class Cpu:
    """The CPU as a device: its threads, and memory for their work, which all stages on it share, one at a time."""

    pass_sizes: tuple[int, ...] = (512,)

    def __init__(self, n_threads: int, name: str = "CPU") -> None:
        self.name = name
        self.description = f"{n_threads} threads"
        self.library, self._n_threads = Library(), n_threads
        self._pool: ThreadPool | None = None
        self.lock = threading.Lock()
        self.scratch = aligned(n_threads * SCRATCH)
        self._buffers: dict[int, Buffers] = {}

    @property
    def threads(self) -> ThreadPool:
        """Made when first used, as its kernels are compiled with those of the first graph; others after a fork."""
        self._pool = self._pool or ThreadPool(self.library, self._n_threads)
        return self._pool

    def weight_bytes(self, tensor: Tensor) -> int:
        return tensor.n_bytes

    def room(self, graphs: Sequence[Graph], n_tokens: int) -> int:
        return memory.available()

    def streaming_bytes(self, layers: Sequence[Graph], settings: Settings) -> int:
        return 0

    def compile(
        self,
        graphs: Sequence[Graph],
        settings: Settings,
        streamed: Sequence[Sequence[Graph]] = (),
        host: Device | None = None,
    ) -> list[Backend]:
        assert not streamed
        return [CpuBackend(graph, self, settings.n_tokens, *settings.kv) for graph in graphs]

    def after_fork(self) -> None:
        """This process is a child, which has none of the threads; most children need none."""
        self._pool, self.lock = None, threading.Lock()

    def buffers(self, n_ubatch: int) -> Buffers:
        """Memory for values of so many tokens; to be used only by who has the lock."""
        return self._buffers.setdefault(n_ubatch, Buffers(n_ubatch, self.library.isa))

    def close(self) -> None:
        if self._pool:
            self._pool.close()


class CpuBackend:
    """Runs a graph on the CPU. Compiles the kernels that it needs; holds the KV pages."""

    max_logits: int | None = None
    n_alike = ROWWISE

    def __init__(
        self, graph: Graph, cpu: Cpu, n_ubatch: int, k_type: str, v_type: str, memory: PageMemory | None = None
    ) -> None:
        """memory: one that others share whose layers are in its pages too; by default there is one for this graph."""
        self._cpu, library = cpu, cpu.library
        self.n_batch = n_ubatch
        self._selected = graph.result.rows == "selected"
        layout = memory.layout if memory else PageLayout(graph.kv, k_type, v_type)
        self.memory = (memory or PageMemory(layout)) if graph.kv else None
        self.states = state_memory(graph, operations.state_bytes, "cpu f32")
        self._tables: list[np.ndarray] = []  # of the batch at work
        self._inputs = Inputs(graph, n_ubatch, _SHORT, _MOST_SPANS, cpu.scratch)
        self._plan = Plan(graph, layout, self.states, self._inputs, cpu.buffers(n_ubatch), library.isa)
        library.load([*operations.first_kernels(self._plan), *ThreadPool.KERNELS])
        self._programs: dict[tuple[ThreadPool, int, int, bool], Program] = {}
        self._causal = all(op.causal for op in graph.ops if isinstance(op, Attention))
        group = max((op.q.heads // op.kv_heads for op in graph.ops if isinstance(op, Attention)), default=1)
        self._task_tokens = max(1, _TASK_ROWS // group + 4 & -8)  # a multiple of 8: tokens in lanes share cache lines

    def start(self, batch: Batch, x: np.ndarray | None = None) -> Result:
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

    def note(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing: the threads are the device's."""

    def _program(self, threads: ThreadPool, steps: list[Step]) -> Program:
        calls = [self._cpu.library.get(step.kernel).bind(**step.arguments) for step in steps]
        products = [step.arguments if "n_rows" in step.arguments else {} for step in steps]
        weights = [arguments.get("weights", arguments.get("gate")) for arguments in products]
        return threads.program(calls, [step.barrier for step in steps], weights)

    def _fill(self, batch: Batch) -> None:
        """Write what the kernels read of a batch: ids, angles, places in the cache, wanted rows, attention's tasks."""
        inputs, first, n_logits = self._inputs, 0, 0
        positions = np.concatenate([np.arange(c.position, c.position + len(c.tokens)) for c in batch.chunks])
        self._tables = [self.memory.table(c.sequence.pages) for c in batch.chunks] if self.memory else []
        for i, (_, tokens, wanted, _) in enumerate(batch.chunks):
            n = len(tokens)
            inputs.ids[first : first + n] = tokens
            at = positions[first : first + n]
            if self.memory:
                inputs.slots[first : first + n, 0] = self._tables[i][at // PAGE]
                inputs.slots[first : first + n, 1] = at % PAGE
            inputs.rows[n_logits : n_logits + wanted] = np.arange(first + n - wanted, first + n)
            first, n_logits = first + n, n_logits + wanted
        inputs.n_tokens[0], inputs.n_logits[0] = first, n_logits
        if self.memory:
            self._fill_blocks(batch)
        if self.states:
            inputs.write_states(batch, self.states)
        inputs.write_positions(positions)

    def _fill_blocks(self, batch: Batch) -> None:
        """Cut the batch into tasks for attention; where tokens are few, also along a long context."""
        inputs, first = self._inputs, 0
        blocks: list[tuple[int, ...]] = []
        splits: list[tuple[int, ...]] = []
        row = 0
        for pages, (_, tokens, _, position) in zip(self._tables, batch.chunks, strict=True):
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
        inputs.blocks[: len(blocks)] = blocks
        inputs.splits[: len(splits)] = splits or np.empty((0, 4), np.int64)
        inputs.n_blocks[0], inputs.n_splits[0] = len(blocks), len(splits)

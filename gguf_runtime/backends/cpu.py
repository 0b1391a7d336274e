"""The CPU backend: runs a graph's programs of kernels on the thread team, one batch at a time."""

from __future__ import annotations

import numpy as np

from ..cache import PageLayout, PagePool
from ..graph import Attention, Graph, Rope, RopeFrequencies
from ..kernels.code import Library, address
from ..kernels.layout import PAGE
from ..kernels.team import Program, Team
from . import Batch
from .plan import FEW, ROWWISE, Inputs, Plan, Step, size_of

_TASK_ROWS = 48  # rows (heads × tokens) that make a good attention task: they share each key that is loaded
_FEW_TOKENS = 16  # a pass over so few is short, so not to be interrupted; and attention cuts their context into spans
_SPAN, _MOST_SPANS = 4, 64  # pages of a span at least, and how many there may be


class CpuBackend:
    """Runs a graph on the CPU. Compiles the kernels that it needs; holds the buffers and the KV pages."""

    def __init__(self, graph: Graph, n_ubatch: int, n_threads: int, k_type: str, v_type: str) -> None:
        self.n_threads = n_threads
        library = Library()
        layout = PageLayout(graph.kv, k_type, v_type)
        self.pool = PagePool(layout)
        self._ropes = [(rope, *_angles(rope, n_ubatch)) for rope in _distinct_ropes(graph)]
        angles = {id(rope): (cos, sin) for rope, cos, sin in self._ropes}
        self._inputs = Inputs(n_ubatch, _FEW_TOKENS, _MOST_SPANS, n_threads, angles)
        self._plan = Plan(graph, layout, self._inputs, n_ubatch, library.isa)
        library.load(["program.run", *self._plan.kernels()])
        self._library, self._team = library, Team(library, n_threads)
        self._programs: dict[tuple[int, int, bool], Program] = {}
        group = max(op.n_heads // op.n_kv_heads for op in graph.ops if isinstance(op, Attention))
        self._task_tokens = max(1, _TASK_ROWS // group + 4 & -8)  # a multiple of 8: tokens in lanes share cache lines

    def run(self, batch: Batch) -> np.ndarray:
        """Run one batch of at most n_ubatch tokens; gives logits f32[batch.n_logits, n_vocab]."""
        self._fill(batch)
        key = size_of(batch.n_tokens), min(size_of(batch.n_logits), FEW), bool(self._inputs.n_splits[0])
        if key not in self._programs:
            self._programs[key] = self._program(self._plan.steps(*key))
        self._team.run(self._programs[key], here=batch.n_tokens <= _FEW_TOKENS)
        return self._plan.logits[: batch.n_logits].copy()

    def step_cost(self, n_tokens: int) -> float:
        """About what a step of n tokens costs, in steps of one: one waits for memory, more for arithmetic."""
        return 0.6 + 0.4 * n_tokens if n_tokens <= ROWWISE else 2 + n_tokens / 6  # measured on all types

    def close(self) -> None:
        self._team.close()

    def _program(self, steps: list[Step]) -> Program:
        calls = [self._library.get(step.kernel).bind(**step.arguments) for step in steps]
        products = [step.arguments if "n_rows" in step.arguments else {} for step in steps]
        weights = [arguments.get("weights", arguments.get("gate")) for arguments in products]
        return self._team.program(calls, [step.meet for step in steps], weights)

    def _fill(self, batch: Batch) -> None:
        """Write what the kernels read of a batch: ids, angles, places in the cache, wanted rows, attention's tasks."""
        inputs, first, n_logits = self._inputs, 0, 0
        positions = np.concatenate([np.arange(p.position, p.position + len(p.tokens)) for p in batch.parts])
        for sequence, tokens, _, wanted in batch.parts:
            n = len(tokens)
            inputs.ids[first : first + n] = tokens
            at = positions[first : first + n]
            inputs.slots[first : first + n, 0] = sequence.table[at // PAGE]
            inputs.slots[first : first + n, 1] = at % PAGE
            inputs.rows[n_logits : n_logits + wanted] = np.arange(first + n - wanted, first + n)
            first, n_logits = first + n, n_logits + wanted
        inputs.n_tokens[0], inputs.n_logits[0] = first, n_logits
        self._fill_blocks(batch)
        for rope, cos, sin in self._ropes:
            theta = positions[:, None] * rope.frequencies
            cos[:first], sin[:first] = np.cos(theta) * rope.magnitude, np.sin(theta) * rope.magnitude

    def _fill_blocks(self, batch: Batch) -> None:
        """Cut the batch into tasks for attention; where tokens are few, also along a long context."""
        inputs, first = self._inputs, 0
        blocks: list[tuple[int, ...]] = []
        splits: list[tuple[int, ...]] = []
        row = 0
        for sequence, tokens, position, _ in batch.parts:
            table = address(sequence.table)
            for start in range(0, len(tokens), self._task_tokens):
                n = min(self._task_tokens, len(tokens) - start)
                task = table, first + start, n, position + start
                n_pages = (position + start + n - 1) // PAGE + 1
                span = max(_SPAN, -(-n_pages // _MOST_SPANS))
                if batch.n_tokens > _FEW_TOKENS or n_pages <= span:
                    blocks.append((*task, 0, n_pages, -1, 0))
                    continue
                spans = range(0, n_pages, span)
                splits.append((first + start, n, row, len(spans)))
                for page in spans:
                    blocks.append((*task, page, min(page + span, n_pages), row, 0))
                    row += n
            first += len(tokens)
        inputs.blocks[: len(blocks)] = blocks
        inputs.splits[: len(splits)] = splits or np.empty((0, 4), np.int64)
        inputs.n_blocks[0], inputs.n_splits[0] = len(blocks), len(splits)


def _distinct_ropes(graph: Graph) -> list[RopeFrequencies]:
    return list({id(op.frequencies): op.frequencies for op in graph.ops if isinstance(op, Rope)}.values())


def _angles(rope: RopeFrequencies, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (n_tokens, len(rope.frequencies))
    return np.empty(shape, np.float32), np.empty(shape, np.float32)

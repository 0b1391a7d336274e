"""What a batch tells the GPU: one piece of memory on each side, sent in one copy, and the rows of the embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...graph import Graph
from ...kernels.layout import PAGE
from ...operations import Attention, Embed
from .. import Batch
from ..errors import PlanError
from ..states import NOTHING, Segment, StateMemory, segments
from .embedding import EmbeddedRows
from .launches import GpuMemory
from .sizes import tiles_of, up

if TYPE_CHECKING:
    from .device import CudaDevice

TASK_ROWS = 128  # of attention, in one task (attention.cuh): heads × tokens
_TASKS = 16  # of which a multiple is launched: empty ones are at the end
_MOST_TABLES = 1 << 20  # entries


class CudaInputs:
    """Addresses on the GPU of what kernels read of a batch, and the writing of it.

    n_tokens, n_logits, n_chunks: i32. Of each token: ids; tokens, (position, where its page table begins); ends, how
    many tokens its sequence then has. rows: tokens whose logits are wanted. tasks: of attention over many tokens,
    (first token, tokens of its sequence, first row of these). chunks: of each sequence (first token, tokens, first
    segment, segments); segments: what they do to states (recurrence.cu). tables: page addresses of all sequences, i64.
    angles: what kernels make of the positions, by the rotation's id and delay. embeddings: by the number of the value
    that is made of them.
    """

    def __init__(self, device: CudaDevice, graph: Graph, n_ubatch: int, n_ctx: int) -> None:
        group = max((op.q.heads // op.kv_heads for op in graph.ops if isinstance(op, Attention)), default=1)
        self._device, self._group = device, group
        self.angles: dict[tuple[int, int], GpuMemory] = {}
        n_tasks = up(n_ubatch * group // TASK_ROWS + n_ubatch + 1, _TASKS)
        self._most_tables = min(_MOST_TABLES, max(4096, 32 * tiles_of(n_ctx, PAGE)))
        sizes = {"n_tokens": 4, "n_logits": 12, "tokens": 8 * n_ubatch, "ends": 4 * n_ubatch, "ids": 4 * n_ubatch,
                 "rows": 4 * n_ubatch, "tasks": 12 * n_tasks, "chunks": 16 * n_ubatch}  # fmt: skip
        offsets, end = {}, 0
        for name, size in sizes.items():
            offsets[name] = end
            end += up(size, 4)
        self._segments_at, self._most_segments = up(end, 16), 2 * n_ubatch
        self._tables_at = self._segments_at + 32 * self._most_segments
        self.embeddings = {
            op.out.number: EmbeddedRows(device, op, n_ubatch) for op in graph.ops if isinstance(op, Embed)
        }
        total = self._tables_at + 8 * self._most_tables
        self._host, self._sent = device.pinned(total), device.event()
        self._memory = device.allocate(total)
        at = self._memory.address
        self.n_tokens, self.n_logits, self.tokens = at, at + offsets["n_logits"], at + offsets["tokens"]
        self.ends, self.rows, self.tasks = at + offsets["ends"], at + offsets["rows"], at + offsets["tasks"]
        self.ids, self.chunks, self.n_chunks = at + offsets["ids"], at + offsets["chunks"], self.n_logits + 4
        self.segments, self.tables = at + self._segments_at, at + self._tables_at

        def host(name: str, columns: int) -> np.ndarray:
            part = self._host[offsets[name] : offsets[name] + sizes[name] // (4 * columns) * (4 * columns)]
            return part.view(np.int32).reshape(-1, columns)

        self._counts = self._host[:16].view(np.int32)
        self._host_tokens, self._host_rows, self._host_tasks = host("tokens", 2), host("rows", 1), host("tasks", 3)
        self._host_ends, self._host_ids, self._host_chunks = host("ends", 1), host("ids", 1), host("chunks", 4)
        self._host_segments = self._host[self._segments_at : self._tables_at].view(np.int64).reshape(-1, 4)
        self._host_tables = self._host[self._tables_at :].view(np.int64)

    def write(
        self, batch: Batch, tables: Sequence[np.ndarray] | None, n_rows: int, with_tasks: bool,
        states: StateMemory | None = None,
    ) -> int:  # fmt: skip
        """Send a batch to the GPU; gives how many tasks of attention there are to launch, if they are wanted.

        tables: of each chunk, the addresses of its sequence's pages, i64; None where there is no cache. n_rows: for how
        many tokens the embedding is made, at least those of the batch. Waits until what was sent before has left.
        """
        self._sent.synchronize()
        first = n_logits = n_tables = n_tasks = n_segments = 0
        for i, (sequence, tokens, wanted, position) in enumerate(batch.chunks):
            n, first_segment = len(tokens), n_segments
            if states:
                n_segments += self._write_segments(n_segments, segments(sequence.marks, first, n, position), states)
            self._host_chunks[i] = first, n, first_segment, n_segments - first_segment
            self._host_ids[first : first + n, 0] = tokens
            place = self._host_tokens[first : first + n]
            place[:, 0] = np.arange(position, position + n)
            place[:, 1] = n_tables
            self._host_ends[first : first + n] = position + n
            self._host_rows[n_logits : n_logits + wanted, 0] = np.arange(first + n - wanted, first + n)
            if tables is not None:
                n_pages = (position + n - 1) // PAGE + 1
                if n_tables + n_pages > self._most_tables:
                    raise PlanError("the sequences of this batch have more pages than the GPU has room for in a step")
                self._host_tables[n_tables : n_tables + n_pages] = tables[i][:n_pages]
                n_tables += n_pages
            if with_tasks:
                starts = range(0, n * self._group, TASK_ROWS)
                self._host_tasks[n_tasks : n_tasks + len(starts)] = [(first, n, start) for start in starts]
                n_tasks += len(starts)
            first, n_logits = first + n, n_logits + wanted
        self._host_tasks[n_tasks : up(n_tasks, _TASKS)] = 0
        self._counts[:3] = first, n_logits, len(batch.chunks)
        self._device.copy(self._memory.address, self._host.ctypes.data, self._tables_at + 8 * n_tables)
        if self.embeddings:
            for rows in self.embeddings.values():
                rows.write(self._host_ids[:first, 0], self._host_tokens[:first, 0], n_rows, many=with_tasks)
        self._sent.record(self._device.stream)
        return up(n_tasks, _TASKS)

    def _write_segments(self, at: int, found: Iterable[Segment], states: StateMemory) -> int:
        """Put segments there, from number `at` on; gives how many they are."""
        rows = [
            (it.first, it.n_tokens, 0 if it.source == NOTHING else states.address(it.source), states.address(it.target))
            for it in found
        ]
        if at + len(rows) > self._most_segments:
            raise PlanError("the sequences of this batch are to leave more states than the GPU has room for")
        self._host_segments[at : at + len(rows)] = rows
        return len(rows)

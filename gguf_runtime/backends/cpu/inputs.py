"""What a batch tells the CPU's kernels."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np

from ...graph import Graph
from ...kernels.layout import SCRATCH
from ...operations import Attention, BestKeys, Embed, EmbedNgrams, Rope, RopeFrequencies, ScaleByPosition, Stateful
from .. import Batch
from ..errors import PlanError
from ..ngrams import ngram_rows
from ..states import NOTHING, Segment, StateMemory, segments


class PagePlaces(NamedTuple):
    """Where a batch's pages are. slots: of each token the page's address and the place in it; blocks: attention's
    tasks."""

    slots: np.ndarray
    blocks: np.ndarray


class CpuInputs:
    """Arrays that stay where they are; kernels/cpu/attention.py explains some.

    angles: by id of the RopeFrequencies and delay, cos and sin, f32[token][n_rot / 2]. position_scales: by (rate,
    length, offset) of ScaleByPosition, f32[token].
    """

    most_keys = SCRATCH // 4 - 16384  # that a thread has memory for the scores of

    def __init__(self, graph: Graph, n_tokens: int, n_split: int, n_spans: int, scratch: np.ndarray) -> None:
        """n_split: the most tokens whose attention is cut, into at most n_spans spans each. scratch: of the threads."""
        self._ropes = {(id(op.frequencies), op.delay): op.frequencies for op in graph.ops if isinstance(op, Rope)}
        self.angles = {key: (_angles(rope, n_tokens), _angles(rope, n_tokens)) for key, rope in self._ropes.items()}
        scaled = [op for op in graph.ops if isinstance(op, ScaleByPosition)]
        self.position_scales = {(op.rate, op.length, op.offset): np.zeros(n_tokens, np.float32) for op in scaled}
        tables = [op.table.shape[0] for op in graph.ops if isinstance(op, Embed) and op.by == "position"]
        self._most_positions = min(tables, default=0)
        cycles = {op.table.shape[0] for op in graph.ops if isinstance(op, Embed) and op.by == "cycle"}
        self.cycles = {n: np.zeros(n_tokens, np.int32) for n in cycles}  # positions in a cycle of so many
        self.tables = np.zeros(n_tokens, np.int64)  # addresses of the page addresses of each token's sequence
        self.positions = np.zeros(n_tokens, np.int32)
        self.ids = np.zeros(n_tokens, np.int32)
        sourced = any(isinstance(op, Attention) and op.source for op in graph.ops)
        self.source_blocks = np.zeros((n_tokens if sourced else 0, 9), np.int64)  # of that to source texts
        self.places, self.window_places = (
            PagePlaces(np.zeros((n_tokens, 2), np.int64), np.zeros((max(n_tokens, n_split * n_spans), 9), np.int64))
            for _ in range(2)
        )
        self.splits = np.zeros((n_split, 4), np.int64)  # those that were cut into spans
        self.rows = np.zeros(n_tokens, np.int32)  # tokens whose logits are wanted; of texts that are pooled the last
        self.first_rows = np.zeros(n_tokens, np.int32)  # of each of these, the first token of its text
        self.n_tokens, self.n_blocks, self.n_splits, self.n_logits = (np.zeros(1, np.int64) for _ in range(4))
        self.n_source_blocks = np.zeros(1, np.int64)
        stateful = [op for op in graph.ops if isinstance(op, Stateful)]
        n_segments = n_tokens if stateful else 0
        self.groups = np.zeros((n_segments, 2), np.int64)  # of each sequence its segments, the first and how many
        self.segments = np.zeros((n_segments, 4), np.int64)  # first token, tokens, records with the state before, after
        self.n_groups = np.zeros(1, np.int64)
        self.zeros = np.zeros(max((op.out.size for op in stateful), default=0), np.float32)
        self._ngrams = [op for op in stateful if isinstance(op, EmbedNgrams)]
        self.ngrams = {
            op.slot: (np.zeros((n_tokens, len(op.sizes)), np.int32), np.zeros(1, np.int64)) for op in self._ngrams
        }
        self._chooses = any(isinstance(op, BestKeys) for op in graph.ops)
        self.scratch = scratch
        self.n_partials = n_split * n_spans  # for each head

    def write_positions(self, positions: np.ndarray) -> None:
        """What kernels read of the tokens' positions, i64. Raises PlanError where a table has no row for one."""
        n = len(positions)
        if self._most_positions and positions.max() >= self._most_positions:
            raise PlanError(f"the model has embeddings for {self._most_positions} positions: ask for no more with -c")
        if positions.max() >= self.most_keys and self._chooses:
            raise PlanError(f"keys are chosen among at most {self.most_keys}: ask for no more with -c")
        self.positions[:n] = positions
        for length, cycle in self.cycles.items():
            cycle[:n] = positions % length
        for (key, rope), (cos, sin) in zip(self._ropes.items(), self.angles.values(), strict=True):
            _, delay = key
            theta = (positions - delay)[:, None] * rope.frequencies
            cos[:n], sin[:n] = np.cos(theta) * rope.magnitude, np.sin(theta) * rope.magnitude
        for (rate, length, offset), scales in self.position_scales.items():
            scales[:n] = 1 + rate * np.log1p((positions + offset) // length)

    def write_states(self, batch: Batch, states: StateMemory) -> None:
        """What kernels read of the sequences' states. Raises PlanError where one is not there to begin from."""
        first, found = 0, list[Segment]()
        for i, chunk in enumerate(batch.chunks):
            own = list(segments(chunk.sequence.marks, first, len(chunk.tokens), chunk.position))
            self.groups[i] = len(found), len(own)
            found += own
            first += len(chunk.tokens)
        self.n_groups[0] = len(batch.chunks)
        for row, segment in zip(self.segments, found, strict=False):
            source = 0 if segment.source == NOTHING else states.address(segment.source)
            row[:] = segment.first, segment.n_tokens, source, states.address(segment.target)
        for op in self._ngrams:
            rows, count = self.ngrams[op.slot]
            count[0] = first * len(op.sizes)
            for segment in found:
                end = segment.first + segment.n_tokens
                rows[segment.first : end] = _ngrams(op, self.ids[segment.first : end], segment, states)


def _ngrams(op: EmbedNgrams, ids: np.ndarray, segment: Segment, states: StateMemory) -> list[list[int]]:
    """The rows of tokens, given those before them; keeps the last."""
    n = len(op.multipliers) - 1
    last = [op.end] * n if segment.source == NOTHING else _numbers(states.at(segment.source, op.slot), n).tolist()
    tokens = [*last, *ids.tolist()]
    _numbers(states.at(segment.target, op.slot), n)[:] = tokens[len(tokens) - n :]
    return [ngram_rows(op, tokens[at : at + n + 1][::-1]) for at in range(len(ids))]


def _numbers(at: int, n: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_int64 * n).from_address(at))


def _angles(rope: RopeFrequencies, n_tokens: int) -> np.ndarray:
    return np.empty((n_tokens, len(rope.frequencies)), np.float32)

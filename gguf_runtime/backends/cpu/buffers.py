"""Memory for values on the CPU, which the plans of all its stages share, as they run one at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...kernels.isa import Isa
from ...kernels.layout import COLUMNS, LANES, MOST_TOKENS, PART_BYTES, RECORD_BYTES
from ...kernels.library import aligned
from ...memory_plan import PlacePool

#: Sizes of batches that differ in their kernels: each number up to ROWWISE, whose tokens are laid along rows of weights
#: one by one; up to FEW; and more, with which it pays to round weights to bytes first, or to multiply tiles.
ROWWISE, FEW, MANY = 4, 47, 1 << 30
#: Pairs of tokens and one expert that are still laid along rows of weights, in larger batches too.
ROWWISE_PAIRS = 8


class BufferKind(NamedTuple):
    """What memory for a value is: numbers of a row, their form, and whether rows are tokens, or pairs of these with
    each of n_used experts of n_experts, which begin a new 16 of lanes (kernels/cpu/routing.py)."""

    width: int
    form: str
    n_used: int = 1
    n_experts: int = 0


class Order(NamedTuple):
    """Where pairs of tokens and experts are put in order: parts i64[n][4], and slots i32[n]."""

    parts: np.ndarray
    slots: np.ndarray


class Groups(NamedTuple):
    """The orders of experts with few pairs, and of those with more, whose pairs are in lanes."""

    rows: Order
    lanes: Order


class Buffers:
    """Memory for n_ubatch tokens each."""

    def __init__(self, n_ubatch: int, isa: Isa) -> None:
        self._n_ubatch, self._isa = n_ubatch, isa
        self.pool: PlacePool[BufferKind, np.ndarray] = PlacePool(self._memory)
        self._row_records: dict[int, np.ndarray] = {}
        self._packed: dict[BufferKind, np.ndarray] = {}
        self._groups: dict[tuple[int, int], Groups] = {}
        self._partials: dict[int, np.ndarray] = {}

    def rowwise(self, memory: Any) -> Any:
        """Where that is kept of few tokens. Records have memory of their own: what stands beyond the end of a row is
        multiplied by zeros, which must not meet the bytes of records in lanes, as floats perhaps no numbers."""
        return self._row_records.get(id(memory), memory)

    def lanes(self, form: str, size: int) -> str:
        """The form of tokens side by side, in batches of a size, that takes the place of one of single tokens."""
        return "bfloat_lanes" if form == "bytes" and size == MANY and self._isa.has_tiles else f"{form[:-1]}_lanes"

    def packed(self, kind: BufferKind) -> np.ndarray:
        """Memory for records of a plain value."""
        if kind not in self._packed:
            self._packed[kind] = self._memory(kind)
        return self._packed[kind]

    def groups(self, n_used: int, n_experts: int) -> Groups:
        """Memory for the order of pairs, which all layers alike share."""
        if (n_used, n_experts) not in self._groups:
            n_parts = 1 + n_experts + self._n_ubatch * n_used // MOST_TOKENS
            sizes = self._n_rows(n_used, n_experts), self._n_slots(n_used, n_experts)
            orders = (Order(np.zeros((n_parts, PART_BYTES // 8), np.int64), np.zeros(n, np.int32)) for n in sizes)
            self._groups[n_used, n_experts] = Groups(*orders)
        return self._groups[n_used, n_experts]

    def partials(self, n: int, n_heads: int, v_dim: int) -> np.ndarray:
        """Memory for n partial results of each head of an attention, which all layers of its size share."""
        size = 4 * n * n_heads * (-(-v_dim // 16) * 16 + 16)
        if size not in self._partials:
            self._partials[size] = aligned(size)
        return self._partials[size]

    def _memory(self, kind: BufferKind) -> np.ndarray:
        """Rows for all tokens. Records begin as zeros: kernels may read beyond what is written, not use it."""
        width, form, n_used, n_experts = kind
        if form == "plain":
            return aligned(4 * self._n_ubatch * width).view(np.float32).reshape(self._n_ubatch, width)
        n_records = -(-width // COLUMNS)
        lanes = max(RECORD_BYTES[self.lanes(form, size)] for size in (FEW, MANY))
        memory = aligned(n_records * self._n_slots(n_used, n_experts) // LANES * lanes)
        self._row_records[id(memory)] = aligned(n_records * self._n_rows(n_used, n_experts) * RECORD_BYTES[form])
        return memory

    def _n_rows(self, n_used: int, n_experts: int) -> int:
        """The most rows that are laid along weights, and one more: three are read as four."""
        return max(ROWWISE * n_used, min(self._n_ubatch * n_used, ROWWISE_PAIRS * n_experts)) + 1

    def _n_slots(self, n_used: int, n_experts: int) -> int:
        """The most places in lanes that rows take."""
        n_pairs = self._n_ubatch * n_used
        return -(-(n_pairs + (LANES - 1) * min(n_experts, n_pairs)) // LANES) * LANES

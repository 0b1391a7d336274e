"""Memory for values on the CPU, which the plans of all its stages share, as they run one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.isa import Isa
from ...kernels.layout import COLUMNS, LANES, RECORD_BYTES
from ...kernels.library import aligned
from ...memory_plan import Pool

#: Sizes of batches that differ in their kernels: each number up to ROWWISE, whose tokens are laid along rows of weights
#: one by one; up to FEW; and more, with which it pays to round weights to bytes first, or to multiply tiles.
ROWWISE, FEW, MANY = 4, 47, 1 << 30


class Buffers:
    """Memory for n_ubatch tokens each."""

    def __init__(self, n_ubatch: int, isa: Isa) -> None:
        self._n_ubatch, self._isa = n_ubatch, isa
        self.pool: Pool[tuple[int, str], np.ndarray] = Pool(lambda kind: self._memory(*kind))  # by width and form
        self._row_records: dict[int, np.ndarray] = {}
        self._packed: dict[tuple[int, str], np.ndarray] = {}
        self._partials: dict[int, np.ndarray] = {}

    def rowwise(self, memory: Any) -> Any:
        """Where that is kept of few tokens. Records have memory of their own: what stands beyond the end of a row is
        multiplied by zeros, which must not meet the bytes of records in lanes, as floats perhaps no numbers."""
        return self._row_records.get(id(memory), memory)

    def lanes(self, form: str, size: int) -> str:
        """The form of tokens side by side, in batches of a size, that takes the place of one of single tokens."""
        return "bfloat_lanes" if form == "bytes" and size == MANY and self._isa.has_tiles else f"{form[:-1]}_lanes"

    def packed(self, width: int, form: str) -> np.ndarray:
        """Memory for records of a plain value of this width."""
        if (width, form) not in self._packed:
            self._packed[width, form] = self._memory(width, form)
        return self._packed[width, form]

    def partials(self, n: int, n_heads: int, v_dim: int) -> np.ndarray:
        """Memory for n partial results of each head of an attention, which all layers of its size share."""
        size = 4 * n * n_heads * (-(-v_dim // 16) * 16 + 16)
        if size not in self._partials:
            self._partials[size] = aligned(size)
        return self._partials[size]

    def _memory(self, width: int, form: str) -> np.ndarray:
        """Rows for all tokens. Records begin as zeros: kernels may read beyond what is written, not use it."""
        if form == "plain":
            return aligned(4 * self._n_ubatch * width).view(np.float32).reshape(self._n_ubatch, width)
        n_records = -(-width // COLUMNS)
        lanes = max(RECORD_BYTES[self.lanes(form, size)] for size in (FEW, MANY))
        memory = aligned(n_records * -(-self._n_ubatch // LANES) * lanes)
        self._row_records[id(memory)] = aligned(n_records * ROWWISE * RECORD_BYTES[form])
        return memory

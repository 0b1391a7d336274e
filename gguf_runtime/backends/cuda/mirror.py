"""Keys and values of a layer whose cache is in the system's memory, for as long as the GPU works on it."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from ...cache import PagePool
from ...kernels.layout import PAGE
from .. import Batch, Part
from .device import CudaDevice, Memory


def n_pages(n_ctx: int) -> int:
    """Pages on the GPU: a sequence's whole context, or the beginnings of several."""
    return -(-n_ctx // PAGE) + 1


class Mirror:
    """Of each sequence of a batch its pages of one layer, one after another, in some memory of the GPU.

    page_bytes: of the largest layer.
    """

    def __init__(self, device: CudaDevice, pool: PagePool, memory: Memory, page_bytes: int) -> None:
        self._device, self._pool, self._memory, self._page_bytes = device, pool, memory, page_bytes
        self._n_pages = memory.n_bytes // page_bytes

    def holds(self, batch: Batch) -> bool:
        """Whether there is room for this batch's sequences."""
        return sum(map(_pages_of, batch.parts)) <= self._n_pages

    def tables(self, batch: Batch) -> list[np.ndarray]:
        """Addresses of each part's pages."""
        ends = list(accumulate(map(_pages_of, batch.parts)))
        pages = self._memory.address + self._page_bytes * np.arange(ends[-1])
        return np.split(pages, ends[:-1])

    def load(self, batch: Batch, at: int, n_bytes: int) -> None:
        """Fetch what is there from before the batch. at, n_bytes: where the layer is in a page of the pool."""
        for part, table in zip(batch.parts, self.tables(batch), strict=True):
            pages = part.sequence.table(self._pool)
            for i in range(-(-part.position // PAGE)):
                self._device.copy(int(table[i]), int(pages[i]) + at, n_bytes)

    def save(self, batch: Batch, at: int, n_bytes: int) -> None:
        """Bring the pages to the pool in which the batch has put something."""
        for part, table in zip(batch.parts, self.tables(batch), strict=True):
            pages = part.sequence.table(self._pool)
            for i in range(part.position // PAGE, _pages_of(part)):
                self._device.copy(int(pages[i]) + at, int(table[i]), n_bytes)


def _pages_of(part: Part) -> int:
    return -(-(part.position + len(part.tokens)) // PAGE)

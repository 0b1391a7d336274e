"""Keys and values of a layer whose cache is in the system's memory, for as long as the GPU works on it."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from ...kernels.layout import PAGE
from .. import Batch, Chunk
from ..pages import PageMemory
from .launches import GpuMemory

if TYPE_CHECKING:
    from .device import CudaDevice


def n_pages(n_ctx: int) -> int:
    """Pages on the GPU: a sequence's whole context, or the beginnings of several."""
    return -(-n_ctx // PAGE) + 1


class Mirror:
    """Of each sequence of a batch its pages of one layer, one after another, in some memory of the GPU.

    page_bytes: of the largest layer.
    """

    def __init__(self, device: CudaDevice, memory: PageMemory, staging: GpuMemory, page_bytes: int) -> None:
        self._device, self._memory, self._staging, self._page_bytes = device, memory, staging, page_bytes
        self._n_pages = staging.n_bytes // page_bytes

    def holds(self, batch: Batch) -> bool:
        """Whether there is room for this batch's sequences."""
        return sum(map(_pages_of, batch.chunks)) <= self._n_pages

    def tables(self, batch: Batch) -> list[np.ndarray]:
        """Addresses of each chunk's pages."""
        ends = list(accumulate(map(_pages_of, batch.chunks)))
        pages = self._staging.address + self._page_bytes * np.arange(ends[-1])
        return np.split(pages, ends[:-1])

    def load(self, batch: Batch, at: int, n_bytes: int) -> None:
        """Fetch what is there from before the batch. at, n_bytes: where the layer is in a page."""
        for chunk, table in zip(batch.chunks, self.tables(batch), strict=True):
            pages = self._memory.table(chunk.sequence.pages)
            for i in range(-(-chunk.position // PAGE)):
                self._device.copy(int(table[i]), int(pages[i]) + at, n_bytes)

    def save(self, batch: Batch, at: int, n_bytes: int) -> None:
        """Bring the pages back in which the batch has put something."""
        for chunk, table in zip(batch.chunks, self.tables(batch), strict=True):
            pages = self._memory.table(chunk.sequence.pages)
            for i in range(chunk.position // PAGE, _pages_of(chunk)):
                self._device.copy(int(pages[i]) + at, int(table[i]), n_bytes)


def _pages_of(chunk: Chunk) -> int:
    return -(-(chunk.position + len(chunk.tokens)) // PAGE)

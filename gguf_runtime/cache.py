"""The KV cache: pages of 64 tokens, taken as a sequence grows.

A page holds its tokens' keys and values of every layer that one stage runs. Pages come from slabs of memory
that the system fills only when it is touched, so a context of any length costs nothing until it is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from .graph import KvShape
from .kernels.layout import KV_GROUP, KV_TYPES, PAGE, head_bytes
from .kernels.memory import address

SLAB = 8  # pages that are allocated at once


class PageLayout:
    """Where in a page each layer's keys and values begin (bytes), and how large a page is.

    k_type, v_type: how numbers are kept, of KV_TYPES. Raises ValueError where heads do not fit a type.
    """

    def __init__(self, kv: dict[int, KvShape], k_type: str, v_type: str) -> None:
        for kind, dims in (k_type, {s.k_dim for s in kv.values()}), (v_type, {s.v_dim for s in kv.values()}):
            if kind not in KV_TYPES:
                raise ValueError(f"a KV cache of type {kind}: there are {', '.join(KV_TYPES)}")
            if kind != "f16" and any(dim % KV_GROUP for dim in dims):
                raise ValueError(f"a KV cache of type {kind} needs heads of {KV_GROUP}, {2 * KV_GROUP} … dimensions")
        self.k_type, self.v_type = k_type, v_type
        self.k_offset: dict[int, int] = {}
        self.v_offset: dict[int, int] = {}
        size = 0
        for layer, shape in kv.items():
            self.k_offset[layer] = size
            size += shape.n_heads * head_bytes(k_type, shape.k_dim)
            self.v_offset[layer] = size = _aligned(size)
            size = _aligned(size + shape.n_heads * head_bytes(v_type, shape.v_dim))
        self.n_bytes = size


def _aligned(n: int) -> int:
    return -(-n // 64) * 64


def _system_memory(n_bytes: int) -> tuple[Any, int]:
    memory = np.zeros(n_bytes, np.uint8)
    return memory, address(memory)


class PagePool:
    """Pages to take and give back, by address.

    allocate(n_bytes) → (what keeps the memory, its address); copy(to, source, n_bytes): between it and the system's.
    Both are the system's by default. Threads may take pages and give them back at once: each of the list's operations
    is done as a whole.
    """

    def __init__(
        self,
        layout: PageLayout,
        allocate: Callable[[int], tuple[Any, int]] = _system_memory,
        copy: Callable[[int, int, int], object] = ctypes.memmove,
    ) -> None:
        self.layout, self._allocate, self._copy = layout, allocate, copy
        self._slabs: list[Any] = []
        self._free: list[int] = []

    def take(self) -> int:
        while True:
            with suppress(IndexError):
                return self._free.pop()
            slab, start = self._allocate(self.layout.n_bytes * SLAB + 64)
            self._slabs.append(slab)
            first = _aligned(start)
            self._free.extend(first + i * self.layout.n_bytes for i in reversed(range(SLAB)))

    def give_back(self, pages: list[int]) -> None:
        self._free.extend(reversed(pages))

    def read(self, page: int) -> bytes:
        """What a page holds."""
        data = np.empty(self.layout.n_bytes, np.uint8)
        self._copy(address(data), page, self.layout.n_bytes)
        return data.tobytes()

    def write(self, page: int, data: bytes) -> None:
        """Fill a page with what `read` gave of one."""
        self._copy(page, address(np.frombuffer(data, np.uint8)), self.layout.n_bytes)


class Sequence:
    """One text's tokens in the cache, with pages in every stage's pool. Made by `Engine.new_sequence`."""

    def __init__(self, pools: Iterable[PagePool]) -> None:
        self._tables = {pool: np.zeros(16, np.int64) for pool in pools}
        self._n_pages = 0
        self.n_tokens = 0

    def table(self, pool: PagePool) -> np.ndarray:
        """Addresses of this sequence's pages in a pool, in order; i64, longer than needed."""
        return self._tables[pool]

    def grow(self, n_tokens: int) -> None:
        """Take the pages that this many more tokens need. They count once `n_tokens` is raised."""
        needed = -(-(self.n_tokens + n_tokens) // PAGE)
        while self._n_pages < needed:
            taken: list[int] = []
            try:
                taken.extend(pool.take() for pool in self._tables)
            except BaseException:  # no memory
                for pool, page in zip(self._tables, taken, strict=False):
                    pool.give_back([page])
                raise
            for (pool, table), page in zip(self._tables.items(), taken, strict=True):
                if self._n_pages == len(table):
                    self._tables[pool] = table = np.concatenate([table, np.zeros_like(table)])
                table[self._n_pages] = page
            self._n_pages += 1

    def truncate(self, n_tokens: int) -> None:
        """Forget all but the first n_tokens."""
        if not 0 <= n_tokens <= self.n_tokens:
            raise ValueError(f"cannot truncate {self.n_tokens} tokens to {n_tokens}")
        self.n_tokens = n_tokens
        kept = -(-n_tokens // PAGE)
        for pool, table in self._tables.items():
            pool.give_back(table[kept : self._n_pages].tolist())
        self._n_pages = kept

    def release(self) -> None:
        """Give all pages back; the sequence is empty then."""
        self.truncate(0)

    @property
    def form(self) -> str:
        """How a page keeps its tokens: pages of equal form mean the same to equal models."""
        layouts = [pool.layout for pool in self._tables]
        return " ".join(f"{layout.k_type} {layout.v_type} {PAGE} {layout.n_bytes}" for layout in layouts)

    def pages(self) -> Iterator[tuple[PagePool, int]]:
        """Each page, and the pool in which it lies, in order."""
        for pool, table in self._tables.items():
            for page in table[: self._n_pages].tolist():
                yield pool, page

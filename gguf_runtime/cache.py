"""The KV cache: pages of 64 tokens, taken as a sequence grows.

A page holds its tokens' keys and values of every layer that one backend runs. Pages come from slabs of memory
that the system fills only when it is touched, so a context of any length costs nothing until it is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np

from .graph import KvShape
from .kernels.code import address
from .kernels.layout import KV_GROUP, KV_TYPES, PAGE, head_bytes

_SLAB = 8  # pages


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


class PagePool:
    """Pages to take and give back, by address."""

    def __init__(self, layout: PageLayout) -> None:
        self.layout = layout
        self._slabs: list[np.ndarray] = []
        self._free: list[int] = []

    def take(self) -> int:
        if not self._free:
            slab = np.zeros(self.layout.n_bytes * _SLAB + 64, np.uint8)
            self._slabs.append(slab)
            first = _aligned(address(slab))
            self._free = [first + i * self.layout.n_bytes for i in reversed(range(_SLAB))]
        return self._free.pop()

    def give_back(self, pages: list[int]) -> None:
        self._free.extend(reversed(pages))

    def read(self, page: int) -> bytes:
        """What a page holds."""
        return ctypes.string_at(page, self.layout.n_bytes)

    def write(self, page: int, data: bytes) -> None:
        """Fill a page with what `read` gave of one."""
        ctypes.memmove(page, data, self.layout.n_bytes)


class Sequence:
    """One text's tokens in the cache. Made by `Engine.new_sequence`."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._pages: list[int] = []
        self.n_tokens = 0
        self.table = np.zeros(16, np.int64)  # addresses of the pages, in order

    def grow(self, n_tokens: int) -> None:
        """Take the pages that this many more tokens need. They count once `n_tokens` is raised."""
        needed = -(-(self.n_tokens + n_tokens) // PAGE)
        if needed > len(self.table):
            self.table = np.concatenate([self.table, np.zeros(max(needed, len(self.table)), np.int64)])
        while len(self._pages) < needed:
            self._pages.append(self._pool.take())
            self.table[len(self._pages) - 1] = self._pages[-1]

    def truncate(self, n_tokens: int) -> None:
        """Forget all but the first n_tokens."""
        if not 0 <= n_tokens <= self.n_tokens:
            raise ValueError(f"cannot truncate {self.n_tokens} tokens to {n_tokens}")
        self.n_tokens = n_tokens
        kept = -(-n_tokens // PAGE)
        self._pool.give_back(self._pages[kept:])
        del self._pages[kept:]

    def release(self) -> None:
        """Give all pages back; the sequence is empty then."""
        self.truncate(0)

    @property
    def form(self) -> str:
        """How a page keeps its tokens: pages of equal form mean the same to equal models."""
        layout = self._pool.layout
        return f"{layout.k_type} {layout.v_type} {PAGE} {layout.n_bytes}"

    def pages(self) -> Iterator[tuple[PagePool, int]]:
        """Each page, and the pool in which it lies, in order."""
        for page in self._pages:
            yield self._pool, page

"""Memory for pages of the KV cache: of 64 tokens each, the keys and values of every layer that one stage runs.

Pages have numbers that mean the same to all stages; each stage's memory turns a number into an address. Memory comes
in slabs that the system fills only when it is touched, so a context of any length costs nothing until it is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import memory
from ..graph import KvShape
from ..kernels.layout import FLOATS, KV_GROUP, KV_TYPES, PAGE, head_bytes
from ..kernels.memory import address

SLAB = 8  # pages that are allocated at once


class PageLayout:
    """Where in a page each layer's keys and values begin (bytes), and how large a page is.

    k_type, v_type: how numbers are kept, of KV_TYPES. Raises ValueError where heads do not fit a type.
    """

    def __init__(self, kv: dict[int, KvShape], k_type: str, v_type: str) -> None:
        for kind, dims in (k_type, {s.k_dim for s in kv.values()}), (v_type, {s.v_dim for s in kv.values()}):
            if kind not in KV_TYPES:
                raise ValueError(f"a KV cache of type {kind}: there are {', '.join(KV_TYPES)}")
            if kind.upper() not in FLOATS and any(dim % KV_GROUP for dim in dims):
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

    @property
    def form(self) -> str:
        """How a page keeps its tokens: pages of equal form mean the same to equal models."""
        return f"{self.k_type} {self.v_type} {PAGE} {self.n_bytes}"


def _aligned(n: int) -> int:
    return -(-n // 64) * 64


class Heap(NamedTuple):
    """Where slabs come from. Heaps of the same device share what is free there.

    allocate(n_bytes) → (what keeps the memory, its address); copy(to, source, n_bytes), also from and to the system's
    memory; free() → bytes that slabs may take.
    """

    device: str
    allocate: Callable[[int], tuple[Any, int]]
    copy: Callable[[int, int, int], object]
    free: Callable[[], int]


def _system_memory(n_bytes: int) -> tuple[Any, int]:
    zeros = np.zeros(n_bytes, np.uint8)
    return zeros, address(zeros)


def system_room() -> int:
    """Of the memory that is free now, a quarter is left to others."""
    return memory.available() * 3 // 4


SYSTEM = Heap("RAM", _system_memory, ctypes.memmove, system_room)


class PageMemory:
    """One stage's memory for pages, on its device."""

    def __init__(self, layout: PageLayout, heap: Heap = SYSTEM) -> None:
        self.layout, self.heap = layout, heap
        self._slabs: list[Any] = []
        self._addresses = np.zeros(0, np.int64)

    def extend_to(self, n_pages: int) -> None:
        """Have memory for pages 0 to n_pages - 1. Raises MemoryError; what there is stays."""
        size = self.layout.n_bytes
        while len(self._addresses) < n_pages:
            slab, start = self.heap.allocate(size * SLAB + 64)
            self._slabs.append(slab)
            self._addresses = np.append(self._addresses, _aligned(start) + size * np.arange(SLAB))

    def table(self, pages: np.ndarray) -> np.ndarray:
        """i64: the addresses of pages."""
        return self._addresses[pages]

    def copy(self, to: int, source: int) -> None:
        """Fill a page with what another holds, on the device."""
        self.heap.copy(int(self._addresses[to]), int(self._addresses[source]), self.layout.n_bytes)

    def read(self, page: int) -> bytes:
        """What a page holds."""
        data = np.empty(self.layout.n_bytes, np.uint8)
        self.heap.copy(address(data), int(self._addresses[page]), self.layout.n_bytes)
        return data.tobytes()

    def write(self, page: int, data: bytes) -> None:
        """Fill a page with what `read` gave of one."""
        self.heap.copy(int(self._addresses[page]), address(np.frombuffer(data, np.uint8)), self.layout.n_bytes)

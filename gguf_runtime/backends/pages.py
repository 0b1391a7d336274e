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
_MOST_SLAB = 64 << 20  # bytes of several records that are


class KvTypes(NamedTuple):
    """How the cache keeps keys and values: f16, q8_0 … (kernels/layout.py)."""

    k: str = "f16"
    v: str = "f16"


class PageLayout:
    """Where in a page each layer's keys and values begin (bytes), and how large a page is.

    types: of KV_TYPES. Raises ValueError where heads do not fit a type.
    """

    def __init__(self, kv: dict[int, KvShape], types: KvTypes) -> None:
        for kind, dims in (types.k, {s.k_dim for s in kv.values()}), (types.v, {s.v_dim for s in kv.values()}):
            if kind not in KV_TYPES:
                raise ValueError(f"a KV cache of type {kind}: there are {', '.join(KV_TYPES)}")
            if kind.upper() not in FLOATS and any(dim % KV_GROUP for dim in dims):
                raise ValueError(f"a KV cache of type {kind} needs heads of {KV_GROUP}, {2 * KV_GROUP} … dimensions")
        self.types = types
        self.k_offset: dict[int, int] = {}
        self.v_offset: dict[int, int] = {}
        size = 0
        for layer, shape in kv.items():
            self.k_offset[layer] = size
            size += shape.n_heads * head_bytes(types.k, shape.k_dim)
            self.v_offset[layer] = size = _aligned(size)
            size = _aligned(size + shape.n_heads * head_bytes(types.v, shape.v_dim))
        self.n_bytes = size

    @property
    def form(self) -> str:
        """How a page keeps its tokens: pages of equal form mean the same to equal models."""
        return f"{self.types.k} {self.types.v} {PAGE} {self.n_bytes}"


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


class RecordMemory:
    """One stage's memory for records of one size, such as pages, by their numbers.

    form: how a record keeps what is in it: records of equal form mean the same to equal models.
    """

    def __init__(self, n_bytes: int, form: str, heap: Heap = SYSTEM) -> None:
        self.n_bytes, self.form, self.heap = n_bytes, form, heap
        self.slab = max(1, min(SLAB, _MOST_SLAB // max(n_bytes, 1)))  # records that are allocated at once
        self._slabs: list[Any] = []
        self._addresses = np.zeros(0, np.int64)

    def extend_to(self, n: int) -> None:
        """Have memory for records 0 to n - 1. Raises MemoryError; what there is stays."""
        while len(self._addresses) < n:
            slab, start = self.heap.allocate(self.n_bytes * self.slab + 64)
            self._slabs.append(slab)
            self._addresses = np.append(self._addresses, _aligned(start) + self.n_bytes * np.arange(self.slab))

    def table(self, numbers: np.ndarray) -> np.ndarray:
        """i64: the addresses of records."""
        return self._addresses[numbers]

    def address(self, number: int) -> int:
        """The address of one."""
        return int(self._addresses[number])

    def copy(self, to: int, source: int) -> None:
        """Fill a record with what another holds, on the device."""
        self.heap.copy(self.address(to), self.address(source), self.n_bytes)

    def read(self, number: int) -> bytes:
        """What a record holds."""
        data = np.empty(self.n_bytes, np.uint8)
        self.heap.copy(address(data), self.address(number), self.n_bytes)
        return data.tobytes()

    def write(self, number: int, data: bytes) -> None:
        """Fill a record with what `read` gave of one."""
        self.heap.copy(self.address(number), address(np.frombuffer(data, np.uint8)), self.n_bytes)


class PageMemory(RecordMemory):
    """One stage's memory for pages, on its device."""

    def __init__(self, layout: PageLayout, heap: Heap = SYSTEM) -> None:
        super().__init__(layout.n_bytes, layout.form, heap)
        self.layout = layout


class WindowMemory(PageMemory):
    """Memory for pages of layers that see only a window. window: tokens that the widest of them sees."""

    def __init__(self, layout: PageLayout, window: int, heap: Heap = SYSTEM) -> None:
        super().__init__(layout, heap)
        self.window = window

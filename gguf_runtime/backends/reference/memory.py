"""The reference's cache: float64 keys and values in pages; states of sequences beside them."""

from __future__ import annotations

import ctypes
from weakref import WeakKeyDictionary

import numpy as np

from ...graph import Graph
from ...kernels.layout import PAGE
from .. import Sequence
from ..errors import PlanError
from ..pages import PageMemory


class Layout:
    """Where in a page each slot's keys and values begin (bytes), and how large a page is."""

    k_type = v_type = "f64"

    def __init__(self, graph: Graph) -> None:
        self.k_offset: dict[int, int] = {}
        self.v_offset: dict[int, int] = {}
        self.shapes = graph.kv
        size = 0
        for slot, (heads, k_dim, v_dim) in self.shapes.items():
            self.k_offset[slot], self.v_offset[slot] = size, size + 8 * PAGE * heads * k_dim
            size += 8 * PAGE * heads * (k_dim + v_dim)
        self.n_bytes = size


class Memory:
    """What a graph keeps of sequences."""

    def __init__(self, graph: Graph) -> None:
        self._layout = Layout(graph)
        self.pages = PageMemory(self._layout) if graph.kv else None  # type: ignore[arg-type]
        self._states: WeakKeyDictionary[Sequence, dict[int, tuple[int, np.ndarray]]] = WeakKeyDictionary()

    def save(self, sequence: Sequence, slot: int, position: int, k: np.ndarray, v: np.ndarray | None) -> None:
        """Keep keys and values f64[tokens, heads, width] from a position on."""
        for at in range(len(k)):
            page, place = divmod(position + at, PAGE)
            keys, values = self._page(sequence, slot, page)
            keys[place] = k[at]
            if v is not None:
                values[place] = v[at]

    def load(self, sequence: Sequence, slot: int, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of the first n tokens: f64[n, heads, width]."""
        pages = [self._page(sequence, slot, page) for page in range(-(-n_tokens // PAGE))]
        keys, values = (np.concatenate(parts)[:n_tokens] for parts in zip(*pages, strict=True))
        return keys, values

    def state(self, sequence: Sequence, slot: int, position: int, empty: np.ndarray) -> np.ndarray:
        """A slot's state after `position` tokens. Raises PlanError where that is not the last one that was kept."""
        if not position:
            return empty
        at, state = self._states.get(sequence, {}).get(slot, (0, empty))
        if at != position:
            raise PlanError(f"a state after {at} tokens cannot go on at {position}")
        return state

    def keep(self, sequence: Sequence, slot: int, position: int, state: np.ndarray) -> None:
        """Keep a slot's state after `position` tokens."""
        self._states.setdefault(sequence, {})[slot] = position, state

    def _page(self, sequence: Sequence, slot: int, page: int) -> tuple[np.ndarray, np.ndarray]:
        assert self.pages
        heads, k_dim, v_dim = self._layout.shapes[slot]
        start = int(self.pages.table(sequence.pages)[page])
        k_at, v_at = self._layout.k_offset[slot], self._layout.v_offset[slot]
        return _numbers(start + k_at, PAGE, heads, k_dim), _numbers(start + v_at, PAGE, heads, v_dim)


def _numbers(address: int, *shape: int) -> np.ndarray:
    """The float64 numbers at an address."""
    size = int(np.prod(shape))
    if not size:
        return np.zeros(shape)
    return np.ctypeslib.as_array((ctypes.c_double * size).from_address(address)).reshape(shape)

"""The reference's cache: float64 keys and values in pages; states of sequences beside them."""

from __future__ import annotations

import ctypes
from weakref import WeakKeyDictionary

import numpy as np

from ...cache import PagePool, Sequence
from ...graph import Graph
from ...kernels.layout import PAGE
from ..errors import PlanError


class Layout:
    """Where in a page each slot's keys and values begin, in numbers of 8 bytes."""

    k_type = v_type = "f64"

    def __init__(self, graph: Graph) -> None:
        self.offsets: dict[int, tuple[int, int]] = {}
        self.shapes = graph.kv
        size = 0
        for slot, (heads, k_dim, v_dim) in self.shapes.items():
            self.offsets[slot] = size, size + PAGE * heads * k_dim
            size += PAGE * heads * (k_dim + v_dim)
        self.n_bytes = 8 * size


class Memory:
    """What a graph keeps of sequences."""

    def __init__(self, graph: Graph) -> None:
        self._layout = Layout(graph)
        self.pool = PagePool(self._layout) if graph.kv else None  # type: ignore[arg-type]
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
        assert self.pool
        heads, k_dim, v_dim = self._layout.shapes[slot]
        start = int(sequence.table(self.pool)[page])
        k_at, v_at = (start + 8 * offset for offset in self._layout.offsets[slot])
        return _numbers(k_at, PAGE, heads, k_dim), _numbers(v_at, PAGE, heads, v_dim)


def _numbers(address: int, *shape: int) -> np.ndarray:
    """The float64 numbers at an address."""
    size = int(np.prod(shape))
    if not size:
        return np.zeros(shape)
    return np.ctypeslib.as_array((ctypes.c_double * size).from_address(address)).reshape(shape)

"""The reference's cache: float64 keys and values in pages; states of sequences beside them."""

from __future__ import annotations

import ctypes

import numpy as np

from ...graph import Graph
from ...kernels.layout import PAGE
from ...operations import Conv, EmbedNgrams, Shift, Stateful
from .. import Sequence
from ..pages import PageMemory
from ..states import NOTHING, Segment, state_memory


class Layout:
    """Where in a page each slot's keys and values begin (bytes), and how large a page is."""

    form = "f64"

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
        self.states = state_memory(graph, lambda op: 8 * int(np.prod(state_shape(op))), "f64")

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

    def state(self, op: Stateful, segment: Segment, empty: float = 0.0) -> np.ndarray:
        """The state that a segment begins from; `empty` are the numbers of that before a text."""
        if segment.source == NOTHING:
            return np.full(state_shape(op), empty)
        return self._state(op, segment.source).copy()

    def keep(self, op: Stateful, segment: Segment, state: np.ndarray) -> None:
        """Keep the state after a segment."""
        self._state(op, segment.target)[:] = state

    def _state(self, op: Stateful, record: int) -> np.ndarray:
        assert self.states
        return _numbers(self.states.at(record, op.slot), *state_shape(op))

    def _page(self, sequence: Sequence, slot: int, page: int) -> tuple[np.ndarray, np.ndarray]:
        assert self.pages
        heads, k_dim, v_dim = self._layout.shapes[slot]
        start = int(self.pages.table(sequence.pages)[page])
        k_at, v_at = self._layout.k_offset[slot], self._layout.v_offset[slot]
        return _numbers(start + k_at, PAGE, heads, k_dim), _numbers(start + v_at, PAGE, heads, v_dim)


def state_shape(op: Stateful) -> tuple[int, ...]:
    """The shape of what a slot keeps of a sequence."""
    if isinstance(op, Conv):
        return (op.weight.shape[1] - 1) * op.dilation, op.x.size
    if isinstance(op, Shift):
        return 1, op.x.heads, op.x.width
    if isinstance(op, EmbedNgrams):
        return (len(op.multipliers) - 1,)
    if op.kind == "ssm":
        return op.heads, op.width, op.inputs[2].width
    return op.heads, op.inputs[1].width, op.width


def _numbers(address: int, *shape: int) -> np.ndarray:
    """The float64 numbers at an address."""
    size = int(np.prod(shape))
    if not size:
        return np.zeros(shape)
    return np.ctypeslib.as_array((ctypes.c_double * size).from_address(address)).reshape(shape)

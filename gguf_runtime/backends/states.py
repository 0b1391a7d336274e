"""Memory for states: records, each with what every layer that has a state keeps of a text at one place of it.

What a record holds stays as it is: a step begins from one and leaves another. So a step that fails has spoilt nothing,
guesses that prove wrong are taken back by going on from the record before them, and any number of sequences may go on
from the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ..graph import Graph
from ..operations import Stateful
from .errors import PlanError
from .pages import SYSTEM, Heap, RecordMemory

NOTHING = -1  # in place of a record: the state before a text


class StateMark(NamedTuple):
    """A record, and the tokens of a sequence after which it is the state. checkpoint: left for others to go on from."""

    n_tokens: int
    record: int
    checkpoint: bool = False


class Segment(NamedTuple):
    """Tokens of a batch, from the first on, which take a sequence's state from one record to another.

    source may be NOTHING, and may be the same as target, where a step has several passes.
    """

    first: int
    n_tokens: int
    source: int
    target: int


class StateLayout:
    """Where in a record each slot's state begins (bytes), and how large a record is. sizes: bytes by slot."""

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self.offset: dict[int, int] = {}
        self.n_bytes = 0
        for slot, size in sizes.items():
            self.offset[slot] = self.n_bytes
            self.n_bytes += -(-size // 64) * 64


class StateMemory(RecordMemory):
    """One stage's memory for states, on its device."""

    def __init__(self, layout: StateLayout, form: str, heap: Heap = SYSTEM) -> None:
        """form: how numbers are kept and laid out."""
        super().__init__(layout.n_bytes, f"{form} {layout.n_bytes}", heap)
        self.layout = layout

    def at(self, record: int, slot: int) -> int:
        """The address of a slot's state in a record."""
        return self.address(record) + self.layout.offset[slot]


def state_memory(graph: Graph, size: Callable[[Stateful], int], form: str, heap: Heap = SYSTEM) -> StateMemory | None:
    """Memory for what a graph's operations keep, None where they keep nothing; size: bytes of one's state."""
    sizes = {op.slot: size(op) for op in graph.ops if isinstance(op, Stateful)}
    return StateMemory(StateLayout(sizes), form, heap) if sizes else None


def segments(marks: list[StateMark], first: int, n_tokens: int, position: int) -> Iterator[Segment]:
    """What a chunk of n_tokens from a position on does to the state, given the marks of its sequence.

    first: number of the chunk's first token in the batch. Raises PlanError where no state is there to begin from.
    """
    source = next((mark.record for mark in marks if mark.n_tokens == position), None)
    later = [mark for mark in marks if mark.n_tokens > position]
    if not later or position < marks[0].n_tokens:
        raise PlanError(f"a state after {marks[0].n_tokens} tokens cannot go on at {position}")
    record = later[0].record if source is None else source  # within a step: what its pass before has left there
    end = position + n_tokens
    for mark in later:
        n = min(mark.n_tokens, end) - position
        yield Segment(first, n, record, mark.record)
        first, position, record = first + n, position + n, mark.record
        if position == end:
            return
    raise PlanError(f"no record for a state after {end} tokens")

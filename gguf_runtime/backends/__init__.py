"""Backends compile a graph once and run it on every step's batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from typing import NamedTuple, Protocol

import numpy as np

from .pages import PageMemory
from .states import Mark, StateMemory

#: Gives what a backend made of a batch, once it is there.
Result = Callable[[], np.ndarray]


class Sequence(Protocol):
    """What a step must know of a text (engine/sequence.py)."""

    pages: np.ndarray  # i32: the numbers of its pages, in order; more than needed
    n_computed: int  # tokens that are in them
    n_source: int  # of the text that an encoder has read, which they keep beside this one

    @property
    def marks(self) -> list[Mark]:
        """In order: the state that a step begins from, and those that it leaves; empty where there is none."""

    def n_missing(self, n_tokens: int) -> int:
        """How many pages must be taken so that this many more tokens can be computed."""

    @property
    def n_missing_states(self) -> int:
        """How many records of states must be taken for the next step."""

    def reserve(self, n_tokens: int) -> None:
        """Take them."""

    def plan_checkpoints(self, n_tokens: int) -> None:
        """Have the step leave states on the way, for others to go on from."""

    def rewind(self, n: int) -> int:
        """Forget what is computed beyond the first n tokens; gives how many of these could be kept."""


class Chunk(NamedTuple):
    """Tokens that follow what is computed of a sequence; logits are wanted for the last `n_logits` of them.

    position: of the first one in the sequence, which the engine fills in.
    """

    sequence: Sequence
    tokens: np.ndarray | Items[int]  # i32 where the engine has filled in the position
    n_logits: int = 1
    position: int = 0


class Batch(NamedTuple):
    """A ragged batch, small enough for one pass: any number of sequences, each with its tokens."""

    chunks: list[Chunk]

    @property
    def n_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)

    @property
    def n_logits(self) -> int:
        return sum(chunk.n_logits for chunk in self.chunks)


class Backend(Protocol):
    """A graph of some layers on some device."""

    memory: PageMemory | None  # where its layers keep keys and values; None where none does
    states: StateMemory | None  # where they keep states
    n_batch: int  # tokens of one pass at most
    max_logits: int | None  # rows of them that it can give in one pass, None for n_batch
    n_alike: int  # tokens of one sequence in a step that give, bit for bit, what they give one by one

    def start(self, batch: Batch, x: np.ndarray | None = None) -> Result:
        """Start on a batch of at most n_batch tokens; x: f32[n_tokens, width], what the stage before gave.

        The result: logits f32[n_logits, n_vocab] if the graph ends with the output, else f32[n_tokens, width]. The
        next batch may be started before it is there, and needs what this one puts in the cache.
        """
        ...

    def device(self, n_tokens: int) -> object:
        """What works on a batch of n tokens: nothing else can at the same time."""
        ...

    def step_cost(self, n_tokens: int) -> float:
        """About what a step of n tokens costs, in steps of one: one waits for memory, more for arithmetic."""
        ...

    def close(self) -> None: ...


def cut(chunks: Items[Chunk], n_tokens: int, n_logits: int | None = None) -> Iterator[Batch]:
    """Cut a ragged batch into passes of at most n_tokens tokens and n_logits rows of logits, in order."""
    batch: list[Chunk] = []
    most = n_logits or n_tokens
    room, logits_room = n_tokens, most
    for sequence, tokens, wanted, position in chunks:
        start, n = 0, len(tokens)
        while start < n:
            first_wanted = max(start, n - wanted)
            end = min(n, start + room, first_wanted + logits_room)
            here = max(0, end - first_wanted)
            batch.append(Chunk(sequence, tokens[start:end], here, position + start))
            room, logits_room = room - (end - start), logits_room - here
            start = end
            if not (room and logits_room):
                yield Batch(batch)
                batch, room, logits_room = [], n_tokens, most
    if batch:
        yield Batch(batch)


def in_passes(
    run: Callable[[Batch, np.ndarray | None], np.ndarray], batch: Batch, x: np.ndarray | None, n_tokens: int
) -> list[np.ndarray]:
    """What `run` gives for each n_tokens tokens of a batch; x: what the stage before gave, a row for each token."""
    results, first = [], 0
    for part in cut(batch.chunks, n_tokens):
        end = first + part.n_tokens
        results.append(run(part, x if x is None else x[first:end]))
        first = end
    return results

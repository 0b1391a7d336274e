"""Backends compile a graph once and run it on every step's batch."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from ..cache import PagePool, Sequence


class Part(NamedTuple):
    """Some tokens of one sequence, which begin at `position` of it; logits are wanted for the last `n_logits`."""

    sequence: Sequence
    tokens: np.ndarray  # i32
    position: int
    n_logits: int


class Batch(NamedTuple):
    """A ragged batch, small enough for one pass: any number of sequences, each with its tokens."""

    parts: list[Part]

    @property
    def n_tokens(self) -> int:
        return sum(len(part.tokens) for part in self.parts)

    @property
    def n_logits(self) -> int:
        return sum(part.n_logits for part in self.parts)


class Backend(Protocol):
    """A graph of some layers on some device."""

    pool: PagePool
    has_cache: bool  # whether any of its layers keeps keys and values, in `pool`
    max_logits: int | None  # rows that it can give in one pass, None for n_ubatch

    def run(self, batch: Batch, x: np.ndarray | None = None) -> np.ndarray:
        """Run one batch of at most n_ubatch tokens; x: f32[n_tokens, width], what the stage before gave.

        Gives logits f32[n_logits, n_vocab] if the graph ends with the output, else f32[n_tokens, width].
        """
        ...

    def step_cost(self, n_tokens: int) -> float:
        """About what a step of n tokens costs, in steps of one: one waits for memory, more for arithmetic."""
        ...

    def close(self) -> None: ...

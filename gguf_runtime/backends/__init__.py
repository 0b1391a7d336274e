"""Backends compile a graph once and run it on every step's batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..cache import Sequence


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

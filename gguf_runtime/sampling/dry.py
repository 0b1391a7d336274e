"""DRY ("don't repeat yourself"): tokens that would go on with a repetition of earlier text become less likely.

Published by p-e-w (oobabooga/text-generation-webui, pull request 5677): where the last n tokens are found earlier in
the text, what followed them there is penalized by multiplier · base^(n - allowed_length), if n reaches
allowed_length. A repetition does not go past a sequence breaker, such as a new line, which may always follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from ..tokenizer import Tokenizer
from .candidates import Candidates

_MAX_LOG = 88.0  # of a penalty: what a float32 can be
_COMPARED = 16  # tokens at a time
_MAX_TAIL = 20  # tokens of a breaker after its first one


class Breakers:
    """Finds sequence breakers in the text so far. tokens: those that are breakers by themselves."""

    def __init__(self, sequences: Iterable[tuple[int, ...]]) -> None:
        """sequences: the tokens that spell a breaker, in each way that it can be spelt."""
        self._by_last: dict[int, list[tuple[int, ...]]] = {}
        for sequence in sequences:
            self._by_last.setdefault(sequence[-1], []).append(sequence)
        self.tokens = np.array([last for last, spellings in self._by_last.items() if (last,) in spellings], np.int64)

    def end(self, history: np.ndarray) -> bool:
        """Whether the text ends with a breaker, or within a token after the beginning of one."""
        for sequence in self._by_last.get(int(history[-1]), ()):
            if len(sequence) <= len(history) and tuple(history[-len(sequence) :].tolist()) == sequence:
                return True
        return False


@lru_cache(maxsize=4)
def breakers(tokenizer: Tokenizer, texts: tuple[str, ...]) -> Breakers:
    """The ways to spell these texts: a token that holds one, or that ends with the beginning of one, and the rest."""
    sequences: list[tuple[int, ...]] = []
    for text in (text.encode() for text in texts if text):
        for id, piece in enumerate(tokenizer.all_bytes):
            if text in piece:
                sequences.append((id,))
                continue
            for n in range(1, min(len(text), len(piece) + 1)):
                if piece.endswith(text[:n]):
                    rest = tokenizer.encode(text[n:].decode(errors="replace"), add_special=False)
                    sequences.append((id, *rest[:_MAX_TAIL]))
    return Breakers(sequences)


def dry(
    candidates: Candidates,
    history: np.ndarray,
    unbroken: int,
    multiplier: float,
    base: float,
    allowed: int,
    spared: Sequence[int] | np.ndarray = (),
) -> Candidates:
    """Penalize what goes on with a repetition.

    history: int[n]; unbroken: tokens since the last breaker; spared: tokens that are never penalized.
    """
    growth = math.log(base)
    cap = allowed + int(_MAX_LOG / growth) if growth > 0 else allowed
    tokens, lengths = repetitions(history, min(unbroken, cap))
    long = (lengths >= allowed) & ~np.isin(tokens, spared)
    if not long.any():
        return candidates
    candidates, at, known = candidates.opened(tokens[long])
    candidates.logits[at] -= multiplier * base ** (lengths[long][known] - float(allowed))
    return candidates


def repetitions(history: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that came earlier after what the text ends with, and after how many tokens of it; at most `longest`."""
    ends = np.flatnonzero(history[:-1] == history[-1]) if longest > 0 else np.zeros(0, np.int64)
    lengths = np.ones(len(ends), np.int64)
    going_on = np.arange(len(ends))
    for start in range(1, min(longest, len(history)), _COMPARED):
        back = np.arange(start, min(start + _COMPARED, longest, len(history)))
        before = ends[going_on, None] - back
        same = (before >= 0) & (history[before] == history[-1 - back])
        matched = np.where(same.all(axis=1), len(back), same.argmin(axis=1))
        lengths[going_on] += matched
        going_on = going_on[matched == len(back)]
        if not len(going_on):
            break
    tokens, which = np.unique(history[ends + 1], return_inverse=True)
    most = np.zeros(len(tokens), np.int64)
    np.maximum.at(most, which, lengths)
    return tokens, most

"""The token ids of one text, in one place: whoever needs them, such as a sampler, reads them here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class Text:
    """Token ids that grow at their end."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._ids = np.array(tokens if isinstance(tokens, np.ndarray) else list(tokens), np.int32)
        self._n = len(self._ids)

    def __len__(self) -> int:
        return self._n

    @property
    def ids(self) -> np.ndarray:
        """i32[n], a view: to be read before the text changes."""
        return self._ids[: self._n]

    def append(self, token: int) -> None:
        if self._n == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(self._n + 256, np.int32)])
        self._ids[self._n] = token
        self._n += 1

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self.append(token)

    def truncate(self, n: int) -> None:
        """Forget all but the first n."""
        self._n = min(n, self._n)


def common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two texts have in common at their beginning."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    first = int(differs.argmax()) if n else 0
    return first if n and differs[first] else n


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text with which the stop string begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)

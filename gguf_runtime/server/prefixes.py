"""Which replica of an engine is to have a prompt: the one that has computed most of its beginning, if it has time."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence

import numpy as np

_BLOCK = 64  # tokens; engines keep what they have computed in pages of as many


def blocks(tokens: Sequence[int], salt: str = "") -> list[int]:
    """A number for each block of a text that stands for its tokens, all before them, and the salt."""
    data, found, number = np.asarray(tokens, np.int32), list[int](), hash(salt)
    for start in range(0, len(data) - _BLOCK + 1, _BLOCK):
        found.append(number := hash((number, data[start : start + _BLOCK].tobytes())))
    return found


class Prefixes:
    """What each replica was given, as far as it may still have it: the least recently used blocks are forgotten."""

    def __init__(self, n_blocks: int) -> None:
        """n_blocks: of a replica, to be remembered."""
        self._n_blocks = n_blocks
        self._held: dict[str, OrderedDict[int, None]] = {}

    def add(self, replica: str, text: Sequence[int]) -> None:
        """A replica is given a text, whose blocks these are."""
        held = self._held.setdefault(replica, OrderedDict())
        for block in reversed(text):  # the first last: without them, those after them are worth nothing
            held[block] = None
            held.move_to_end(block)
        while len(held) > self._n_blocks:
            held.popitem(last=False)

    def n_common(self, replica: str, text: Sequence[int]) -> int:
        """How many of a text's first blocks a replica has."""
        held: Container[int] = self._held.get(replica, ())
        return next((i for i, block in enumerate(text) if block not in held), len(text))

    def forget(self, replica: str) -> None:
        """It is gone, with all that it had."""
        self._held.pop(replica, None)

    def ranked(self, text: Sequence[int], loads: Mapping[str, int], slack: int) -> list[str]:
        """The replicas, the best first: the longest beginning, then the fewest requests.

        loads: the requests that each one has now. One that has over `slack` more than another is too busy to be
        preferred for what it holds.
        """
        least = min(loads.values(), default=0)

        def worth(replica: str) -> tuple[int, int, float]:
            n = self.n_common(replica, text) if loads[replica] <= least + slack else 0
            return -n, loads[replica], random.random()

        return sorted(loads, key=worth)

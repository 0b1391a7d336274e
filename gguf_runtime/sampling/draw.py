"""The draw at the end of a chain."""

from __future__ import annotations

import numpy as np

from .candidates import BLOCK, Candidates


def draw(candidates: Candidates, chance: float) -> int:
    """The index at which the cumulative probability passes `chance`, a number in [0, 1)."""
    weights = candidates.weights
    if len(weights) <= 4 * BLOCK:
        return _passing(weights, chance * float(weights.sum()))[0]
    # find the block first: adding up each one would take a millisecond
    sums = candidates.sums
    block, rest = _passing(sums, chance * float(sums.sum()))
    return block * BLOCK + _passing(weights[block * BLOCK : (block + 1) * BLOCK], rest)[0]


def _passing(weights: np.ndarray, wanted: float) -> tuple[int, float]:
    """The index at which the cumulative sum passes what is wanted, and what of it is left there.

    Sums that are rounded otherwise may end before; then it is the last that weighs anything.
    """
    reach = np.cumsum(weights, dtype=np.float64)
    last = int(np.flatnonzero(weights)[-1])
    index = int(np.searchsorted(reach[:last], wanted, side="right"))
    return index, wanted - float(reach[index - 1] if index else 0)

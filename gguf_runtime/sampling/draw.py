"""The draw at the end of a chain."""

from __future__ import annotations

import numpy as np

from .candidates import weights

_BLOCK = 256


def draw(logits: np.ndarray, chance: float) -> int:
    """The index at which the cumulative softmax of the logits passes `chance`, a number in [0, 1)."""
    probabilities = weights(logits)
    start = 0
    if len(probabilities) > 4 * _BLOCK:  # find the block first: summing up each one would take a millisecond
        starts = np.arange(0, len(probabilities), _BLOCK)
        reach = np.cumsum(np.add.reduceat(probabilities, starts), dtype=np.float64)
        block = int(np.searchsorted(reach[:-1], chance * reach[-1], side="right"))
        before = reach[block - 1] if block else 0.0
        start = int(starts[block])
        probabilities = probabilities[start : start + _BLOCK]
        wanted = chance * reach[-1] - before
        reach = np.cumsum(probabilities, dtype=np.float64)
    else:
        reach = np.cumsum(probabilities, dtype=np.float64)
        wanted = chance * reach[-1]
    return start + int(np.searchsorted(reach[:-1], wanted, side="right"))

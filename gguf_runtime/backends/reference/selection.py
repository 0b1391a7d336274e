"""Which n of many scores are the greatest, equal ones included.

An indexer's scores are often 0, exactly, so that it matters which of equal ones are taken. The rule is that of a heap
of the best so far, whose worst gives way to a later one that is better: std::partial_sort's, as llama.cpp uses it.
"""

from __future__ import annotations

import numpy as np


def greatest(scores: np.ndarray, n: int) -> list[int]:
    """The numbers of the n greatest of f64[…] scores, in no order; all where there are no more."""
    heap = list(range(min(n, len(scores))))
    if len(scores) <= n:
        return heap
    for at in reversed(range(n // 2)):
        _sink(heap, scores, at, heap[at])
    for i in range(n, len(scores)):
        if scores[i] > scores[heap[0]]:
            _sink(heap, scores, 0, i)
    return heap


def _sink(heap: list[int], scores: np.ndarray, top: int, value: int) -> None:
    """Put a value in the place of `top`: the lesser children move up to the end, then it rises from there."""
    at = top
    while (child := 2 * at + 1) < len(heap):
        if child + 1 < len(heap) and not scores[heap[child + 1]] > scores[heap[child]]:
            child += 1
        heap[at] = heap[child]
        at = child
    while at > top and scores[heap[(at - 1) // 2]] > scores[value]:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = value

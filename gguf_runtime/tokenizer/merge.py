"""Byte-pair merging, which byte-level BPE and SentencePiece's BPE share."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush


def merge(symbols: list[bytes], priorities: Mapping[bytes, float], glue: bytes) -> list[bytes]:
    """Join neighbours, the pair of the lowest priority first and of equals the leftmost, until no pair has one.

    The priority of a pair is that of `left + glue + right`. Takes O(n log n) for n symbols: each merge makes two
    new pairs and leaves two stale ones in the heap, known by a length that is no longer right.
    """
    get = priorities.get
    heap = []
    for i, (left, right) in enumerate(zip(symbols, symbols[1:], strict=False)):
        priority = get(left + glue + right)
        if priority is not None:
            heap.append((priority, i, len(left) + len(right)))
    if not heap:
        return symbols
    heapify(heap)
    symbols = [*symbols, b""]  # the end, which nothing merges with
    end = len(symbols) - 1
    following = list(range(1, end + 2))
    preceding = list(range(-1, end))
    while heap:
        _, i, size = heappop(heap)
        j = following[i]
        if not symbols[i] or not symbols[j] or len(symbols[i]) + len(symbols[j]) != size:
            continue
        left = symbols[i] = symbols[i] + symbols[j]
        symbols[j] = b""
        after = following[i] = following[j]
        preceding[after] = i
        before = preceding[i]
        if before >= 0:
            priority = get(symbols[before] + glue + left)
            if priority is not None:
                heappush(heap, (priority, before, len(symbols[before]) + size))
        if after < end:
            priority = get(left + glue + symbols[after])
            if priority is not None:
                heappush(heap, (priority, i, size + len(symbols[after])))
    return [symbol for symbol in symbols if symbol]

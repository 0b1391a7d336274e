"""Steps that keep some of the candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .candidates import Candidates, block_sums, dot, top

_HEADS = (256, 4096)  # candidates that mostly hold the mass that is asked for; sorting all would take milliseconds


def top_k(candidates: Candidates, k: int) -> Candidates:
    """Keep the k likeliest; of equals, the lowest ids."""
    return candidates.likeliest(k)


def top_p(candidates: Candidates, p: float) -> Candidates:
    """Keep the fewest likeliest whose probabilities add up to p (nucleus sampling, arXiv:1904.09751)."""
    for likeliest, last in _heads(candidates):
        falling = np.sort(candidates.weights[likeliest])[::-1]
        if (n := _reaching(falling, p * candidates.total)) or last:
            break
    few = likeliest[top(candidates.logits[likeliest], n)] if 0 < n < len(likeliest) else likeliest
    return candidates.keep(few)


def typical(candidates: Candidates, p: float) -> Candidates:
    """Keep those whose surprise is closest to the entropy, up to p in all (locally typical, arXiv:2202.00666)."""
    expected = math.log(candidates.total) - candidates.entropy  # the logarithm of a weight of that surprise
    for likeliest, last in _heads(candidates):
        logarithms = candidates.shifted[likeliest]
        distances = np.abs(logarithms - expected)
        order = likeliest[np.argsort(distances, kind="stable")]
        if not last:  # those that are closer than any token that is not among the likeliest
            order = order[: np.count_nonzero(distances < expected - logarithms.min())]
        if (n := _reaching(candidates.weights[order], p * candidates.total)) or last:
            break
    return candidates.keep(np.sort(order[:n] if n else order))


def _heads(candidates: Candidates) -> Iterator[tuple[np.ndarray, bool]]:
    """Indices of more and more of the likeliest, ascending, and whether these are all."""
    n = len(candidates.ids)
    for head in _HEADS:
        if head < n:
            yield top(candidates.logits, head), False
    yield np.arange(n), True


def _reaching(weights: np.ndarray, wanted: float) -> int:
    """How many of the weights, from the first on, add up to what is wanted; 0 where all do not."""
    reach = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(reach[:-1], wanted)) + 1 if len(reach) and reach[-1] >= wanted else 0


def min_p(candidates: Candidates, p: float) -> Candidates:
    """Keep those at least p times as likely as the likeliest (arXiv:2407.01082)."""
    return candidates.at_least(candidates.best + math.log(min(p, 1)))


def top_n_sigma(candidates: Candidates, n: float) -> Candidates:
    """Keep those within n standard deviations of the largest logit (arXiv:2411.07641)."""
    logits = candidates.logits
    possible = logits if logits.min() > -math.inf else logits[logits > -math.inf]
    mean = float(block_sums(possible).sum()) / len(possible)
    away = np.subtract(possible, mean, out=candidates.array()[: len(possible)])
    return candidates.at_least(candidates.best - n * math.sqrt(dot(away, away) / len(away)))


def xtc(candidates: Candidates, threshold: float) -> Candidates:
    """Leave out all but the least likely of those that reach the threshold ("exclude top choices")."""
    logits, least = candidates.logits, math.log(threshold)
    chosen = np.flatnonzero(logits >= candidates.best + least)  # no probability is above 1
    if len(chosen) > 1:
        chosen = chosen[logits[chosen] >= candidates.normalizer + least]
    if len(chosen) < 2:
        return candidates
    last = len(chosen) - 1 - int(np.argmin(logits[chosen][::-1]))  # of equals, the highest id
    return candidates.without(np.delete(chosen, last))


def likeliest(candidates: Candidates) -> Candidates:
    """Keep the likeliest; of equals, the lowest id."""
    return candidates.likeliest(1)

"""Tokens that may come next, and what the steps of a sampler do with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_GROUP = 64  # logits per group when `top` looks for its threshold
_IMPOSSIBLE = np.float32(-1e4)
_MANY = 4096  # from so many candidates on, float32 will do


class Candidates(NamedTuple):
    """Tokens still in the running, by ascending id."""

    ids: np.ndarray  # int64[n]
    logits: np.ndarray  # float[n]


Step = Callable[[Candidates], Candidates]


def shifted(logits: np.ndarray) -> np.ndarray:
    """Logits moved for the largest to be 0; few of them in float64."""
    logits = logits.astype(np.float64 if len(logits) < _MANY else np.float32, copy=False)
    return logits - logits.max()


def weights(logits: np.ndarray) -> np.ndarray:
    """float[n]: probabilities, as multiples of the largest one."""
    return np.exp(shifted(logits))


def normalizer(logits: np.ndarray) -> float:
    """The logarithm of the sum of exponentials: a logit minus this is the logarithm of a probability."""
    return float(logits.max()) + float(np.log(weights(logits).sum()))


def spread(logarithms: np.ndarray, weights: np.ndarray) -> float:
    """The entropy in nats of what `shifted` and `weights` give for some logits."""
    total = float(weights.sum())
    # an impossible token adds nothing, where -inf · 0 would be no number
    return float(np.log(total) - np.dot(weights, np.maximum(logarithms, _IMPOSSIBLE)) / total)


def at_least(candidates: Candidates, threshold: float) -> Candidates:
    """Those whose logit is not below the threshold."""
    return keep(candidates, np.flatnonzero(candidates.logits >= threshold))


def keep(candidates: Candidates, which: np.ndarray) -> Candidates:
    """Those at these indices, which ascend."""
    return Candidates(candidates.ids[which], candidates.logits[which])


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """int[k]: the indices of the k largest scores, ascending; of equals, the lowest indices. k is below n."""
    groups = len(scores) // _GROUP
    among = None
    if groups > k:  # the k-th largest maximum of groups: at least k scores reach it, and rarely many more
        maxima = scores[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
        among = np.flatnonzero(scores >= np.partition(maxima, groups - k)[groups - k])
        scores = scores[among]
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    kept = np.flatnonzero(scores >= threshold)
    if surplus := len(kept) - k:
        kept = np.delete(kept, np.flatnonzero(scores[kept] == threshold)[-surplus:])
    return kept if among is None else among[kept]


def where(candidates: Candidates, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of those of these tokens that are candidates, and their indices among the tokens."""
    ids = candidates.ids
    if not len(ids):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = np.searchsorted(ids, tokens) if len(ids) != ids[-1] + 1 else np.asarray(tokens)
    found = (at >= 0) & (at < len(ids))
    found[found] = ids[at[found]] == tokens[found]
    return at[found], np.flatnonzero(found)

"""Tokens that may come next, and what the steps of a sampler do with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

_GROUP = 64  # logits per group at most when `top` looks for its threshold
_IMPOSSIBLE = np.float32(-1e4)
_LOG2_E = math.log2(math.e)
MANY = 4096  # from so many candidates on, float32 will do
BLOCK = 256  # candidates whose weights are summed up together


class Scratch:
    """float32 arrays for the steps towards one token, used again for the next: fresh memory takes more time than they
    do."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._n_used = 0

    def reset(self) -> None:
        """All arrays are free again."""
        self._n_used = 0

    def array(self, n: int) -> np.ndarray:
        """float32[n], of any content."""
        if self._n_used == len(self._arrays) or len(self._arrays[self._n_used]) < n:
            self._arrays[self._n_used :] = [np.empty(n, np.float32)]
        self._n_used += 1
        return self._arrays[self._n_used - 1][:n]


class Candidates:
    """Tokens still in the running, by ascending id, and what several steps ask of them, which is computed once.

    ids: int64[n]; logits: float[n], which stay as they are. is_head: whether less likely ones are missing (head.py).
    """

    is_head = False

    def __init__(self, ids: np.ndarray, logits: np.ndarray, scratch: Scratch | None = None) -> None:
        self.ids, self.logits, self._scratch = ids, logits, scratch or Scratch()

    def like(self, logits: np.ndarray) -> Candidates:
        """The same tokens with other logits."""
        return Candidates(self.ids, logits, self._scratch)

    def array(self) -> np.ndarray:
        """float[n] of any content: float64 for few candidates."""
        n = len(self.ids)
        return np.empty(n) if n < MANY else self._scratch.array(n)

    def copy(self) -> np.ndarray:
        """The logits, to be changed."""
        logits = self.array()
        logits[:] = self.logits
        return logits

    @cached_property
    def best(self) -> float:
        """The largest logit."""
        return float(self.logits.max())

    @cached_property
    def reference(self) -> float:
        """The logit whose weight is 1."""
        return self.best

    @cached_property
    def shifted(self) -> np.ndarray:
        """float[n]: the logarithms of the weights; of few candidates in float64."""
        shifted = self.array()
        return np.subtract(self.logits, self.reference, out=shifted, dtype=shifted.dtype)

    @cached_property
    def weights(self) -> np.ndarray:
        """float[n]: probabilities, as multiples of one number: the largest one, or that of a token that has left."""
        weights = self.array()
        if weights.dtype == np.float64:
            return np.exp(self.shifted, out=weights)
        return np.exp2(np.multiply(self.shifted, _LOG2_E, out=weights), out=weights)  # half as long as exp

    @cached_property
    def sums(self) -> np.ndarray:
        """float64: the sum of the weights of each BLOCK candidates."""
        return block_sums(self.weights)

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self.sums.sum())

    @property
    def normalizer(self) -> float:
        """The logarithm of the sum of exponentials: a logit minus this is the logarithm of a probability."""
        return self.reference + math.log(self.total)

    @property
    def entropy(self) -> float:
        """In nats."""
        total = self.total
        mean = dot(self.weights, self.shifted) / total
        if math.isnan(mean):  # an impossible token adds nothing, where 0 · -inf is no number
            mean = dot(self.weights, np.maximum(self.shifted, _IMPOSSIBLE)) / total
        return math.log(total) - mean

    def keep(self, which: np.ndarray) -> Candidates:
        """Those at these indices, which ascend."""
        ids = which if self._all else self.ids.take(which)
        kept = Candidates(ids, self.logits.take(which), self._scratch)
        if "weights" in self.__dict__ and (len(which) >= MANY or len(self.ids) < MANY):
            kept.reference, kept.weights = self.reference, self.weights.take(which)  # few are worth float64
        return kept

    def without(self, which: np.ndarray) -> Candidates:
        """All but the few at these indices. Of many, these stay as impossible ones: to move all others takes longer."""
        if len(self.ids) < MANY:
            return self.keep(np.delete(np.arange(len(self.ids)), which))
        rest = self.like(self.copy())
        rest.logits[which] = -math.inf
        rest.reference, rest.weights = self.reference, self.array()
        rest.weights[:] = self.weights
        rest.weights[which] = 0
        return rest

    def likeliest(self, k: int) -> Candidates:
        """The k likeliest; of equals, the lowest ids."""
        if k == 1:
            return self.keep(np.argmax(self.logits, keepdims=True))
        return self if k >= len(self.ids) else self.keep(top(self.logits, k))

    def at_least(self, threshold: float) -> Candidates:
        """Those whose logit is not below the threshold."""
        passing = np.greater_equal(self.logits, threshold)
        return self if passing.all() else self.keep(np.flatnonzero(passing))

    def opened(self, tokens: np.ndarray) -> tuple[Candidates, np.ndarray, np.ndarray]:
        """The same with logits that may be changed, where those of these tokens are in it that are candidates, and
        their indices among the tokens."""
        return self.like(self.copy()), *self.where(tokens)

    def those(self, tokens: np.ndarray) -> Candidates:
        """Some of all tokens, by ascending id."""
        return self.keep(tokens)

    def allowing(self, allowed: np.ndarray) -> Candidates:
        """Those of all tokens that are allowed, bool[n]: the others stay as impossible ones."""
        logits = self.copy()
        np.copyto(logits, -math.inf, where=~allowed)
        return self.like(logits)

    def where(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of those of these tokens that are candidates, and their indices among the tokens."""
        ids = self.ids
        if not len(ids):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        at = np.asarray(tokens) if self._all else np.searchsorted(ids, tokens)
        found = (at >= 0) & (at < len(ids))
        found[found] = ids[at[found]] == tokens[found]
        return at[found], np.flatnonzero(found)

    @property
    def _all(self) -> bool:
        """Whether each token's id is its index."""
        return len(self.ids) > 0 and len(self.ids) == self.ids[-1] + 1


Step = Callable[[Candidates], Candidates]


def block_sums(values: np.ndarray) -> np.ndarray:
    """float64: the sum of each BLOCK values."""
    if len(values) < BLOCK:
        return values.sum(keepdims=True, dtype=np.float64)
    n = len(values) // BLOCK * BLOCK
    sums = np.einsum("ij->i", values[:n].reshape(-1, BLOCK)).astype(np.float64)  # several times as fast as sum()
    return sums if n == len(values) else np.append(sums, values[n:].sum(dtype=np.float64))


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of products, by blocks: threads of a BLAS would disturb our own."""
    n = len(a) // BLOCK * BLOCK
    with np.errstate(invalid="ignore"):
        blocks = a[:n].reshape(-1, 1, BLOCK) @ b[:n].reshape(-1, BLOCK, 1)
        return float(blocks.sum(dtype=np.float64)) + float(np.dot(a[n:], b[n:]))


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """int[k]: the indices of the k largest scores, ascending; of equals, the lowest indices. k is below n."""
    group = min(_GROUP, len(scores) // (2 * k))
    among = None
    if group > 1:  # the k-th largest maximum of groups: at least k scores reach it, and rarely many more
        groups = len(scores) // group
        maxima = scores[: groups * group].reshape(group, groups).max(axis=0)
        among = np.flatnonzero(scores >= np.partition(maxima, groups - k)[groups - k])
        scores = scores.take(among)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    kept = np.flatnonzero(scores >= threshold)
    if surplus := len(kept) - k:
        kept = np.delete(kept, np.flatnonzero(scores[kept] == threshold)[-surplus:])
    return kept if among is None else among[kept]

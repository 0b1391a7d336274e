"""Steps that keep some of the candidates."""

from __future__ import annotations

import math

import numpy as np

from .candidates import Candidates, at_least, keep, normalizer, shifted, spread, top, weights

_HEADS = (256, 4096)  # candidates that mostly hold the mass that is asked for; sorting all would take milliseconds


def top_k(candidates: Candidates, k: int) -> Candidates:
    """Keep the k likeliest; of equals, the lowest ids."""
    return candidates if k >= len(candidates.ids) else keep(candidates, top(candidates.logits, k))


def top_p(candidates: Candidates, p: float) -> Candidates:
    """Keep the fewest likeliest whose probabilities add up to p (nucleus sampling, arXiv:1904.09751)."""
    return _mass(candidates, candidates.logits, weights(candidates.logits), p)


def typical(candidates: Candidates, p: float) -> Candidates:
    """Keep those whose surprise is closest to the entropy, up to p in all (locally typical, arXiv:2202.00666)."""
    logarithms = shifted(candidates.logits)
    mass = np.exp(logarithms)
    expected = np.log(mass.sum()) - spread(logarithms, mass)
    closeness = np.negative(np.abs(np.subtract(logarithms, expected, out=logarithms), out=logarithms), out=logarithms)
    return _mass(candidates, closeness, mass, p)


def _mass(candidates: Candidates, scores: np.ndarray, mass: np.ndarray, p: float) -> Candidates:
    """Keep the fewest of the highest scores whose mass is p of all."""
    n = len(scores)
    for head in (*(size for size in _HEADS if size < n), n):
        best = top(scores, head) if head < n else np.arange(n)
        best = best[np.argsort(-scores[best], kind="stable")]
        reach = np.cumsum(mass[best], dtype=np.float64)
        wanted = p * float(mass.sum() if head < n else reach[-1])
        if reach[-1] >= wanted:
            break
    return keep(candidates, np.sort(best[: int(np.searchsorted(reach[:-1], wanted)) + 1]))


def min_p(candidates: Candidates, p: float) -> Candidates:
    """Keep those at least p times as likely as the likeliest (arXiv:2407.01082)."""
    return at_least(candidates, candidates.logits.max() + math.log(min(p, 1)))


def top_n_sigma(candidates: Candidates, n: float) -> Candidates:
    """Keep those within n standard deviations of the largest logit (arXiv:2411.07641)."""
    logits = candidates.logits
    possible = logits if logits.min() > -math.inf else logits[logits > -math.inf]
    away = possible - possible.mean()
    return at_least(candidates, logits.max() - n * math.sqrt(float(np.dot(away, away)) / len(away)))


def xtc(candidates: Candidates, threshold: float) -> Candidates:
    """Leave out all but the least likely of those that reach the threshold ("exclude top choices")."""
    chosen = np.flatnonzero(candidates.logits >= normalizer(candidates.logits) + math.log(threshold))
    if len(chosen) < 2:
        return candidates
    last = len(chosen) - 1 - int(np.argmin(candidates.logits[chosen][::-1]))  # of equals, the highest id
    kept = np.ones(len(candidates.ids), bool)
    kept[np.delete(chosen, last)] = False
    return Candidates(candidates.ids[kept], candidates.logits[kept])


def likeliest(candidates: Candidates) -> Candidates:
    """Keep the likeliest; of equals, the lowest id."""
    return keep(candidates, np.argmax(candidates.logits, keepdims=True))

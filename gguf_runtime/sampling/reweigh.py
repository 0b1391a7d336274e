"""Steps that change logits: bias, penalties, temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .candidates import Candidates
from .filters import likeliest


def bias(candidates: Candidates, biases: Mapping[int, float]) -> Candidates:
    """Add to the logits of some ids. Raises ValueError where that leaves no token."""
    tokens, amounts = np.array(list(biases)), np.array(list(biases.values()))
    candidates, at, known = candidates.opened(tokens)
    candidates.logits[at] += amounts[known]
    if not candidates.is_head and not candidates.best > -math.inf:
        raise ValueError("the logit bias forbids every token that can come next")
    return candidates


def penalties(
    candidates: Candidates, history: np.ndarray, repeat: float, presence: float, frequency: float
) -> Candidates:
    """Make the tokens of `history` (int[n]) less likely.

    `repeat` divides a positive logit and multiplies a negative one (CTRL, arXiv:1909.05858, minding the sign
    as llama.cpp does); `presence` is subtracted once and `frequency` once per occurrence, as in OpenAI's API.
    """
    candidates, at, _ = candidates.opened(history)
    old = candidates.logits[at].astype(np.float64)
    new = np.where(old > 0, old / repeat, old * repeat) - presence
    if frequency:
        new -= frequency * np.bincount(at)[at]
    candidates.logits[at] = new  # the same each time that a token was seen
    return candidates


def temperature(candidates: Candidates, t: float) -> Candidates:
    """Divide the logits by t; for t = 0 or less, keep the likeliest. They are shifted to end at 0, so that no t is
    too small."""
    if t <= 0:
        return likeliest(candidates)
    if candidates.reference != candidates.best:
        candidates = candidates.like(candidates.logits)
    hotter = candidates.like(np.divide(candidates.shifted, max(t, 1e-30), out=candidates.array()))
    hotter.best, hotter.shifted = 0.0, hotter.logits
    return hotter


def dynamic_temperature(candidates: Candidates, t: float, range: float, exponent: float) -> Candidates:
    """A temperature between t - range and t + range, by how evenly the probabilities are spread.

    It rises with the entropy, as a part of the largest possible one, to the power of the exponent (koboldcpp).
    """
    n = len(candidates.ids)
    if n < 2:
        return candidates
    lowest, highest = max(0.0, t - range), t + range
    evenness = max(0.0, candidates.entropy / math.log(n))
    return temperature(candidates, lowest + (highest - lowest) * evenness**exponent)

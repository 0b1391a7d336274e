"""Mirostat (arXiv:2007.14966): keeps the surprise of the chosen tokens near a target, tau bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .candidates import Candidates
from .draw import draw
from .filters import likeliest, top_k

_ESTIMATED_FROM = 100  # likeliest tokens


class Mirostat:
    """Narrows the candidates so that their surprise is about `mu`, draws, and corrects `mu` by what came."""

    def __init__(self, version: int, tau: float, eta: float, random: Callable[[], float]) -> None:
        self._narrow = self._by_zipf if version == 1 else self._by_surprise
        self._tau, self._eta, self._random = tau, eta, random
        self._mu = 2 * tau

    def __call__(self, candidates: Candidates) -> Candidates:
        candidates = self._narrow(candidates)
        chosen = draw(candidates, self._random())
        surprise = (candidates.normalizer - float(candidates.logits[chosen])) / math.log(2)
        self._mu -= self._eta * (surprise - self._tau)
        return candidates.keep(np.array([chosen]))

    def _by_zipf(self, candidates: Candidates) -> Candidates:
        """Version 1: keep as many as have the surprise mu, if probabilities fall as Zipf's law says."""
        n = len(candidates.ids)
        falling = -np.sort(-top_k(candidates, _ESTIMATED_FROM).logits.astype(np.float64))
        falling = falling[falling > -math.inf]
        if len(falling) < 2:
            return candidates
        rank = np.arange(1, len(falling))
        t, b = np.log((rank + 1) / rank), falling[:-1] - falling[1:]
        s = float(t @ b / (t @ t))
        epsilon = s - 1
        try:
            k = ((epsilon * 2.0**self._mu) / (1 - n**-epsilon)) ** (1 / s)
        except (ZeroDivisionError, OverflowError):  # s is 0 or 1, or k beyond any vocabulary
            return candidates
        return top_k(candidates, max(int(min(k, n)), 1)) if isinstance(k, float) else candidates

    def _by_surprise(self, candidates: Candidates) -> Candidates:
        """Version 2: keep those whose surprise is mu at most."""
        most = candidates.normalizer - self._mu * math.log(2)
        return candidates.at_least(most) if most <= candidates.best else likeliest(candidates)

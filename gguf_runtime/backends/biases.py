"""Biases of attention that follow from positions alone."""

from __future__ import annotations

import numpy as np


def alibi_slopes(n_heads: int, greatest: float) -> np.ndarray:
    """Of each head (Press et al. 2022)."""
    n = 1 << (n_heads.bit_length() - 1)
    h = np.arange(n_heads)
    return np.where(h < n, 2.0 ** (-greatest * (h + 1) / n), 2.0 ** (-greatest / 2 * (2 * (h - n) + 1) / n))


def distance_buckets(behind: np.ndarray, n: int, causal: bool, greatest: int = 128) -> np.ndarray:
    """T5's bucket of each distance (Raffel et al. 2020): exact for near ones, logarithmic beyond."""
    if causal:
        first, distance = np.zeros_like(behind), np.maximum(behind, 0)
    else:
        n //= 2
        first, distance = n * (behind < 0), np.abs(behind)
    exact = n // 2
    far = exact + np.log(np.maximum(distance, 1) / exact) / np.log(greatest / exact) * (n - exact)
    return first + np.where(distance < exact, distance, np.minimum(far.astype(np.int64), n - 1))

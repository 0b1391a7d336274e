"""Logits, and what is known of them before anybody looks at all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Logits(NamedTuple):
    """A row for each token of which they were wanted.

    rows: f32[n][n_vocab]. best: i32[n][k], of each row the ids of the k likeliest tokens, ascending, of equals the
    lowest; None where nobody asked. normalizers: f64[n], what a logit less which is the logarithm of a probability.
    """

    rows: np.ndarray
    best: np.ndarray | None = None
    normalizers: np.ndarray | None = None

    def part(self, first: int, last: int) -> Logits:
        """Those of some rows."""
        best, normalizers = (item if item is None else item[first:last] for item in self[1:])
        return Logits(self.rows[first:last], best, normalizers)

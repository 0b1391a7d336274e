"""Summaries of the last few tokens: of each column a mean, or one that is weighted by a softmax."""

from __future__ import annotations

import numpy as np

from ..operations import Activate, Add, Conv, Embed, Mul, Scale, Slice, Value
from .layers import Layers


def mean(m: Layers, x: Value, n: int) -> Value:
    """Of the last n rows."""
    return m.graph(Scale(sums(m, x, x.width, n), 1 / n))


def weighted_mean(m: Layers, x: Value, scores: Value, positions: str, width: int, n: int) -> Value:
    """Of the last n rows, by the softmax of scores, to which a table adds something for the place in a cycle of n.

    Where x is twice as wide as the mean is to be, its first half is of as many rows before these.
    """
    scores = m.graph(Add(scores, m.graph(Embed(m.tensor(f"{positions}.weight", n, x.width), by="cycle"))))
    shares = m.graph(Activate(scores, "exp"))
    total, weighted = (sums(m, part, width, n) for part in (shares, m.graph(Mul(shares, x))))
    return m.graph(Mul(weighted, m.graph(Activate(total, "reciprocal"))))


def sums(m: Layers, x: Value, width: int, n: int) -> Value:
    """Of the last n rows; and where x is twice as wide, of its first half in those before them."""

    def convolve(part: Value, before: int) -> Value:
        taps = np.concatenate([np.ones(n), np.zeros(before)])
        weight = m.constant(f"taps_{n}_{before}_{width}", np.tile(taps, (width, 1)))
        return m.graph(Conv(part, weight, m.new_slot()))

    last = convolve(m.graph(Slice(x, x.width - width, x.width)), 0)
    return last if x.width == width else m.graph(Add(last, convolve(m.graph(Slice(x, 0, width)), n)))

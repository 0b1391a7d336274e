"""Hyper-connections (Zhu et al. 2024): several residual streams, of which each block reads a mixture.

How much of each stream is read, and how much of what the block made each receives, depends on all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..loader import Tensor
from ..operations import (
    Activate,
    Add,
    Combine,
    Linear,
    Mul,
    Repeat,
    Scale,
    SelectRows,
    Slice,
    Value,
    View,
)
from .layers import Layers


class Streams:
    """Reads and writes the streams of one model, `n` heads of a value."""

    def __init__(self, m: Layers) -> None:
        self.m, self.n = m, m.w.count("hyper_connection.count")
        self.eps = m.w.number("hyper_connection.epsilon", at_least=0)

    def start(self, x: Value) -> Value:
        """All streams begin with the embedding."""
        return self.m.graph(Repeat(x, self.n))

    def mixes(self, streams: Value, fn: Tensor) -> Value:
        """Numbers that depend on all streams."""
        return self.m.graph(Linear(self.m.bare_norm(self.m.graph(View(streams, 1))), fn))

    def shares(self, mixes: Value, scale: Tensor, base: Tensor, part: int, factor: float = 1.0, *,
               least: float | None = None) -> Value:  # fmt: skip
        """factor·sigmoid of the part's n numbers, plus `least`, by default epsilon."""
        graph, first, last = self.m.graph, part * self.n, (part + 1) * self.n
        x = graph(Scale(graph(Slice(mixes, first, last)), 1.0, scale.rows(part, part + 1), base.rows(first, last)))
        bias = self.m.constant("hc_least", np.full(1, self.eps if least is None else least))
        return graph(Scale(graph(Activate(x, "sigmoid")), factor, bias=bias))

    def block(self, x: Value, name: str, run: Callable[[Value], Value]) -> Value:
        """x after a block with its norm: streams mix with each other, by a matrix whose rows and columns sum to 1, and
        each receives its share of what the block made of its mixture (DeepSeek-V4, 2026)."""
        m, graph, first, n = self.m, self.m.graph, 2 * self.n, self.n**2
        fn, scale, base = self.tensors(name, first + n, 3)
        mixes = self.mixes(x, fn)
        y = run(m.norm(self.read(x, self.shares(mixes, scale, base, 0)), f"{name}_norm"))
        among = graph(Slice(mixes, first, first + n))
        among = graph(View(graph(Scale(among, 1.0, scale.rows(2, 3), base.rows(first, first + n))), self.n))
        iterations = m.w.count("hyper_connection.sinkhorn_iterations")
        mixed = graph(Combine(x, graph(Activate(among, "sinkhorn", (iterations, self.eps)))))
        return self.write(mixed, y, self.shares(mixes, scale, base, 1, 2.0, least=0.0))

    def read(self, streams: Value, shares: Value) -> Value:
        return self.m.graph(Combine(streams, shares))

    def write(self, streams: Value, y: Value, shares: Value) -> Value:
        """Each stream plus its share of y."""
        return self.m.graph(Add(streams, self.m.graph(Mul(y, self.m.graph(View(shares, self.n))))))

    def tensors(self, block: str, n_mixes: int, n_parts: int) -> tuple[Tensor, Tensor, Tensor]:
        """What a block's mixes and shares are made with: a matrix, a scale for each part, and biases."""
        m = self.m
        fn = m.tensor(f"hc_{block}_fn.weight", n_mixes, self.n * m.n_embd)
        return fn, m.tensor(f"hc_{block}_scale.weight", n_parts), m.tensor(f"hc_{block}_base.weight", n_mixes)

    def end(self, streams: Value) -> Value:
        """The mixture that logits are made of, for the wanted tokens."""
        m = self.m
        streams = m.graph(SelectRows(streams))
        mixes = self.mixes(streams, m.w.tensor("output_hc_fn.weight", self.n, self.n * m.n_embd))
        scale, base = m.w.tensor("output_hc_scale.weight", 1), m.w.tensor("output_hc_base.weight", self.n)
        return self.read(streams, self.shares(mixes, scale, base, 0))

"""Rotary position embedding (Su et al. 2021)."""

from __future__ import annotations

from typing import Any

from ..library import Ref
from ..simd import load_first, store_first
from .vector_tuples import join_pairs, split_pairs
from .work_stealing import claim


def rope(layout: str) -> Any:
    """Rotate pairs of x in place; cos, sin: f32[token][n_rot / 2].

    The pairs are neighbours for layout "pairs" (as in the paper; llama.cpp's NORM), and lie n_rot / 2 apart
    for "halves" (NEOX).
    """
    neighbours = layout == "pairs"

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, cos: int, sin: int, n_heads: int, head_dim: int, n_rot: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        half = n_rot // 2
        while True:
            t = claim(counter, thread, n_threads, n_tokens)
            if t >= n_tokens:
                break
            for head in range(n_heads):
                at = x + 4 * (t * n_heads + head) * head_dim
                for i in range(0, half, 16):
                    n = half - i
                    c = load_first(cos + 4 * (t * half + i), n)
                    s = load_first(sin + 4 * (t * half + i), n)
                    if neighbours:
                        p, q = split_pairs(load_first(at + 8 * i, 2 * n), load_first(at + 8 * i + 64, 2 * n - 16))
                        low, high = join_pairs(p * c - q * s, q * c + p * s)
                        store_first(at + 8 * i, low, 2 * n)
                        store_first(at + 8 * i + 64, high, 2 * n - 16)
                    else:
                        p, q = load_first(at + 4 * i, n), load_first(at + 4 * (half + i), n)
                        store_first(at + 4 * i, p * c - q * s, n)
                        store_first(at + 4 * (half + i), q * c + p * s, n)

    return body

"""Which keys matter most to each token, for sparse attention (DeepSeek 2025).

Of equal scores, backends/reference/selection.py says which are taken.
"""

from __future__ import annotations

from typing import Any

from ..layout import PAGE, SCRATCH
from ..library import Ref
from ..simd import (
    fma,
    get_f32,
    get_i32,
    get_i64,
    inline,
    load_f32,
    maximum,
    put_f32,
    put_i32,
    splat_f32,
    store,
)
from .kv import key_loader
from .page_products import direct
from .work_stealing import claim


@inline
def _score(heap, scores, i):
    return get_f32(scores + 4 * get_i32(heap + 4 * i))


@inline
def _sink(heap, n, scores, top, value):
    """Put a value in the place of `top` of a heap: the lesser children move up to the end, then it rises from there."""
    at = top
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and not _score(heap, scores, child + 1) > _score(heap, scores, child):
            child += 1
        put_i32(heap + 4 * at, get_i32(heap + 4 * child))
        at = child
    own = get_f32(scores + 4 * value)
    while at > top and _score(heap, scores, (at - 1) // 2) > own:
        put_i32(heap + 4 * at, get_i32(heap + 4 * ((at - 1) // 2)))
        at = (at - 1) // 2
    put_i32(heap + 4 * at, value)


@inline
def _mark_greatest(scores, n_scores, n, heap):
    """The n greatest scores become 1, all others 0."""
    most = min(n, n_scores)
    for i in range(most):
        put_i32(heap + 4 * i, i)
    if n_scores > n:
        for i in range(n // 2):
            at = n // 2 - 1 - i
            _sink(heap, n, scores, at, get_i32(heap + 4 * at))
        for i in range(n, n_scores):
            if n > 0 and get_f32(scores + 4 * i) > _score(heap, scores, 0):
                _sink(heap, n, scores, 0, i)
    for i in range(n_scores):
        put_f32(scores + 4 * i, 0.0)
    for i in range(most):
        put_f32(scores + 4 * get_i32(heap + 4 * i), 1.0)


def best(k_type: str, spread: str) -> Any:
    """out[token] = the positions of its n best keys, f32, ascending, then -1; see operations.BestKeys.

    tables: i64[token], addresses of the page addresses of its sequence; positions: i32[token]; weights:
    f32[token][head], or 0. spread: of the operation, "single" for none. A task: a token.
    """
    add_products = direct(key_loader(k_type))
    whole, filled = spread == "whole", spread == "filled"

    def body(
        thread: int, n_threads: int, counter: int,
        q: int, weights: int, out: int, tables: int, positions: int, n_heads: int, head_dim: int, n: int, stride: int,
        k_offset: int, scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        products = scratch + thread * SCRATCH
        heap = products + 4 * PAGE * n_heads
        scores = heap + 4 * ((n + 15) // 16 * 16)
        while True:
            t = claim(counter, thread, n_threads, n_tokens)
            if t >= n_tokens:
                break
            table, n_keys = get_i64(tables + 8 * t), get_i32(positions + 4 * t) + 1
            n_pages = (n_keys + PAGE - 1) // PAGE
            for i in range(n_pages):
                for c in range(0, n_heads * PAGE, 16):
                    store(products + 4 * c, splat_f32(0.0))
                keys = get_i64(table + 8 * i) + k_offset
                following = get_i64(table + 8 * min(i + 1, n_pages - 1)) + k_offset
                add_products(
                    products, 4 * PAGE, q + 4 * t * n_heads * head_dim, 4 * head_dim, n_heads, keys, following,
                    head_dim, PAGE, products,
                )  # fmt: skip
                for c in range(0, PAGE, 16):
                    total = splat_f32(0.0)
                    for head in range(n_heads):
                        positive = maximum(load_f32(products + 4 * (head * PAGE + c)), splat_f32(0.0))
                        if weights:
                            total = fma(splat_f32(get_f32(weights + 4 * (t * n_heads + head))), positive, total)
                        else:
                            total = total + positive
                    store(scores + 4 * (i * PAGE + c), total)
            n_blocks = n_keys // stride
            for i in range(n_blocks):
                put_f32(scores + 4 * i, get_f32(scores + 4 * (i * stride + stride - 1)))
            n_scores, most, each = n_blocks, n, 1
            if whole:
                most, each = (n + 1) // stride - 1, stride
            if filled:
                n_scores = n_keys
                for i in range(n_keys):
                    at = n_keys - 1 - i
                    value = 1e30
                    if at < n_blocks * stride:
                        value = get_f32(scores + 4 * (at // stride))
                    put_f32(scores + 4 * at, value)
            _mark_greatest(scores, n_scores, most, heap)
            to, end = out + 4 * t * n, out + 4 * (t + 1) * n
            for i in range(n_scores):
                if get_f32(scores + 4 * i) > 0.0:
                    at = i if filled else (i + 1) * stride - each
                    for j in range(each):
                        put_f32(to, at + j)
                        to += 4
            if whole:
                for at in range(n_blocks * stride, n_keys):
                    put_f32(to, at)
                    to += 4
            while to < end:
                put_f32(to, -1.0)
                to += 4

    return body

"""Attention over a paged KV cache, with online softmax: scores exist for one page at a time.

A page holds 64 tokens of one sequence. In it, for each layer, lie the keys as f16[head][dim][token] and the
values as f16[head][token][dim]. With keys so transposed, both products run along the lanes and need no sum
across them. The method: Milakov & Gimelshein 2018; Dao et al. 2022.
"""

from __future__ import annotations

from typing import Any

from ..code import Ref
from ..layout import MAX_HEAD_ROWS, PAGE, SCRATCH
from ..simd import (
    TARGET,
    exp,
    first_lanes,
    fma,
    get_f32,
    get_i64,
    inline,
    load_f32,
    load_first,
    maximum,
    put_f16,
    put_f32,
    reduce_add,
    reduce_max,
    splat_f32,
    store,
    store_first,
)
from .inner import join_pairs, outer, split_pairs, zeros
from .share import claim

# rows (a row is one head of one query) and vectors that the inner products take together
_N, _V = (4, 4) if TARGET.n_registers == 32 else (2, 2)

_MINUS_INFINITY = float("-inf")


def rope(layout: str) -> Any:
    """Rotate pairs of x in place (Su et al. 2021); cos, sin: f32[token][n_rot / 2].

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


def store_kv() -> Any:
    """Put each token's key and value into its page. slots: i64[token][2], the page's address and the place in it."""

    def body(
        thread: int, n_threads: int, counter: int,
        k: int, v: int, slots: int, n_heads: int, head_dim: int, v_dim: int,
        k_offset: int, v_offset: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        v_stride = (v_dim + 15) // 16 * 16
        while True:
            t = claim(counter, thread, n_threads, n_tokens)
            if t >= n_tokens:
                break
            page, place = get_i64(slots + 16 * t), get_i64(slots + 16 * t + 8)
            keys, values = page + k_offset, page + v_offset
            for i in range(n_heads * head_dim):
                put_f16(keys + 2 * (i * PAGE + place), get_f32(k + 4 * (t * n_heads * head_dim + i)))
            for head in range(n_heads):
                for i in range(v_dim):
                    one = get_f32(v + 4 * ((t * n_heads + head) * v_dim + i))
                    put_f16(values + 2 * ((head * PAGE + place) * v_stride + i), one)

    return body


def attend() -> Any:
    """out = softmax(q·k·scale, causal)·v for every head of every token.

    blocks: i64[n_blocks][4] of (address of the sequence's page addresses, first token of the block in the batch, its
    tokens, the first one's position), with tokens·(n_heads / n_kv_heads) <= MAX_HEAD_ROWS. A task: a block, a head.
    """
    scores, weigh, weigh_one = outer("f16", _N, _V), outer("f16", _N, _V), outer("f16", _N, 1)
    none, none_one = zeros(_N * _V), zeros(_N)

    @inline
    def page_scores(s, q, keys, head_dim):
        """s: f32[_N][PAGE] = q·keys for _N rows of q."""
        for first in range(0, PAGE, 16 * _V):
            acc = none()
            for d in range(head_dim):
                acc = scores(acc, q + 4 * d, 4 * head_dim, keys + 2 * (d * PAGE + first))
            for r in range(_N):
                for i in range(_V):
                    store(s + 4 * (r * PAGE + first + 16 * i), acc[r * _V + i])

    @inline
    def soften(s, n, state):
        """Turn the first n scores of a row into weights; gives what the sums so far must be scaled by.

        state: f32[2], the largest score and the sum of the weights so far.
        """
        largest = splat_f32(_MINUS_INFINITY)
        for i in range(0, PAGE, 16):
            v = first_lanes(load_f32(s + 4 * i), n - i, _MINUS_INFINITY)
            largest = maximum(largest, v)
        before = get_f32(state)
        now = max(before, reduce_max(largest))
        total = splat_f32(0.0)
        for i in range(0, PAGE, 16):
            v = first_lanes(exp(load_f32(s + 4 * i) - splat_f32(now)), n - i, 0.0)
            store(s + 4 * i, v)
            total = total + v
        scale = exp(splat_f32(before - now))
        store_first(state, splat_f32(now), 1)
        store_first(state + 4, fma(splat_f32(get_f32(state + 4)), scale, splat_f32(reduce_add(total))), 1)
        return scale

    @inline
    def add_values(o, s, scales, values, n_keys, stride):
        """o: f32[_N][stride] = o·scale + weights·values."""
        for r in range(_N):
            scale = load_f32(scales + 64 * r)
            for i in range(0, stride, 16):
                store(o + 4 * (r * stride + i), load_f32(o + 4 * (r * stride + i)) * scale)
        first = 0
        while first + 16 * _V <= stride:
            acc = none()
            for key in range(n_keys):
                acc = weigh(acc, s + 4 * key, 4 * PAGE, values + 2 * (key * stride + first))
            for r in range(_N):
                for i in range(_V):
                    at = o + 4 * (r * stride + first + 16 * i)
                    store(at, load_f32(at) + acc[r * _V + i])
            first += 16 * _V
        while first < stride:
            one = none_one()
            for key in range(n_keys):
                one = weigh_one(one, s + 4 * key, 4 * PAGE, values + 2 * (key * stride + first))
            for r in range(_N):
                at = o + 4 * (r * stride + first)
                store(at, load_f32(at) + one[r])
            first += 16

    def body(
        thread: int, n_threads: int, counter: int,
        q: int, out: int, blocks: int, n_heads: int, n_kv_heads: int, head_dim: int, v_dim: int,
        k_offset: int, v_offset: int, scale: float, scratch: int, n_blocks: Ref,
    ) -> None:  # fmt: skip
        group, stride = n_heads // n_kv_heads, (v_dim + 15) // 16 * 16
        # of each row: its query, its sum of values, (largest score, sum of weights); then the scores and scales of _N
        queries = scratch + thread * SCRATCH
        sums = queries + 4 * MAX_HEAD_ROWS * head_dim + 64
        states = sums + 4 * MAX_HEAD_ROWS * stride
        s = states + 16 * MAX_HEAD_ROWS
        scales = s + 4 * _N * PAGE
        while True:
            task = claim(counter, thread, n_threads, n_blocks * n_kv_heads)
            if task >= n_blocks * n_kv_heads:
                break
            block, kv_head = blocks + task // n_kv_heads * 32, task % n_kv_heads
            table, first_token = get_i64(block), get_i64(block + 8)
            n_rows, position = get_i64(block + 16) * group, get_i64(block + 24)
            padded = (n_rows + _N - 1) // _N * _N
            for r in range(padded):
                row = min(r, n_rows - 1)
                at = q + 4 * ((first_token + row // group) * n_heads + kv_head * group + row % group) * head_dim
                for i in range(0, head_dim, 16):
                    v = load_first(at + 4 * i, head_dim - i) * splat_f32(scale)
                    store_first(queries + 4 * (r * head_dim + i), v, head_dim - i)
                for i in range(0, stride, 16):
                    store(sums + 4 * (r * stride + i), splat_f32(0.0))
                put_f32(states + 8 * r, _MINUS_INFINITY)
                put_f32(states + 8 * r + 4, 0.0)
            last = position + (n_rows - 1) // group
            for start in range(0, last + 1, PAGE):
                page = get_i64(table + start // PAGE * 8)
                keys = page + k_offset + 2 * kv_head * head_dim * PAGE
                values = page + v_offset + 2 * kv_head * PAGE * stride
                for r in range(0, padded, _N):
                    # a row sees the keys up to its own position
                    most = position + min(r + _N - 1, n_rows - 1) // group + 1 - start
                    if most > 0:
                        page_scores(s, queries + 4 * r * head_dim, keys, head_dim)
                        for i in range(_N):
                            n = position + min(r + i, n_rows - 1) // group + 1 - start
                            store(scales + 64 * i, soften(s + 4 * i * PAGE, n, states + 8 * (r + i)))
                        add_values(sums + 4 * r * stride, s, scales, values, min(most, PAGE), stride)
            for r in range(n_rows):
                at = out + 4 * ((first_token + r // group) * n_heads + kv_head * group + r % group) * v_dim
                total = splat_f32(1.0 / get_f32(states + 8 * r + 4))
                for i in range(0, v_dim, 16):
                    store_first(at + 4 * i, load_f32(sums + 4 * (r * stride + i)) * total, v_dim - i)

    return body

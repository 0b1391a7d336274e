"""Attention over a paged KV cache, with online softmax: scores exist for one page at a time.

A task is one key head and some *rows*: the heads that share it, of one or several tokens. Each page's keys, and then
its values (kv.py), are unpacked once for all of a task's rows. Where tokens are few and the context is long, tasks
are also cut along the context, into spans, whose partial results `merge` joins. The method: Milakov & Gimelshein
2018; Dao et al. 2022, 2023 (Flash-Decoding).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..code import Ref
from ..layout import MAX_TASK_ROWS, PAGE, SCRATCH
from ..simd import (
    TARGET,
    exp,
    first_lanes,
    fma,
    get_f32,
    get_i64,
    inline,
    last_lanes,
    load_f32,
    load_first,
    maximum,
    put_f32,
    reduce_add,
    reduce_max,
    splat_f32,
    store,
    store_first,
)
from .kv import keys_of, values_of
from .records import writer
from .registers import load_tuple, outer, store_tuple, zeros
from .share import claim

#: (rows, vectors) that the inner products take together, the most rows first.
_SHAPES = ((6, 4), (2, 4), (1, 4)) if TARGET.n_registers == 32 else ((2, 2), (1, 2), (1, 2))

_HIDDEN = float("-inf")
_LOWEST = -1e30  # of all scores: what a row without any has seen; finite, so that differences are


@cache
def _scorer(n_rows: int, n_vectors: int) -> Any:
    """page_scores(s, q, keys, dim): s: f32[n_rows][PAGE] = q·keys, for n_rows of q and keys f32[dim][PAGE]."""
    none, step = zeros(n_rows * n_vectors), outer(n_rows, n_vectors)
    save = store_tuple(n_rows, n_vectors)

    @inline
    def page_scores(s, q, keys, dim):
        for first in range(0, PAGE, 16 * n_vectors):
            acc = none()
            for d in range(dim):
                acc = step(acc, q + 4 * d, 4 * dim, keys + 4 * (d * PAGE + first))
            save(s + 4 * first, 4 * PAGE, acc)

    return page_scores


@cache
def _weigher(n_rows: int, n_vectors: int) -> Any:
    """add_values(o, s, values, n_keys, stride): o: f32[n_rows][stride] += s·values, values f32[n_keys][stride]."""
    load, save, step = (make(n_rows, n_vectors) for make in (load_tuple, store_tuple, outer))
    load_one, save_one, step_one = (make(n_rows, 1) for make in (load_tuple, store_tuple, outer))

    @inline
    def add_values(o, s, values, n_keys, stride):
        first = 0
        while first + 16 * n_vectors <= stride:
            acc = load(o + 4 * first, 4 * stride)
            for key in range(n_keys):
                acc = step(acc, s + 4 * key, 4 * PAGE, values + 4 * (key * stride + first))
            save(o + 4 * first, 4 * stride, acc)
            first += 16 * n_vectors
        while first < stride:
            one = load_one(o + 4 * first, 4 * stride)
            for key in range(n_keys):
                one = step_one(one, s + 4 * key, 4 * PAGE, values + 4 * (key * stride + first))
            save_one(o + 4 * first, 4 * stride, one)
            first += 16

    return add_values


@inline
def _soften(s, first, end, state, o, stride):
    """Turn a row's scores, of the keys from `first` to `end` of a page, into weights, and the others into zeros.

    state: f32[2], the largest score and the sum of the weights so far; o: the sum of values, rescaled if need be.
    """
    largest = splat_f32(_LOWEST)
    for i in range(0, PAGE, 16):
        v = first_lanes(load_f32(s + 4 * i), end - i, _HIDDEN)
        if first > i:
            v = last_lanes(v, first - i, _HIDDEN)
        store(s + 4 * i, v)
        largest = maximum(largest, v)
    before = get_f32(state)
    now = max(before, reduce_max(largest))
    if now > before:
        scale = exp(splat_f32(before - now))
        put_f32(state, now)
        store_first(state + 4, splat_f32(get_f32(state + 4)) * scale, 1)
        for i in range(0, stride, 16):
            store(o + 4 * i, load_f32(o + 4 * i) * scale)
    total = splat_f32(0.0)
    for i in range(0, PAGE, 16):
        v = exp(load_f32(s + 4 * i) - splat_f32(now))
        store(s + 4 * i, v)
        total = total + v
    put_f32(state + 4, get_f32(state + 4) + reduce_add(total))


@cache
def _head_writer(kind: str) -> Any:
    """put(out, t, head, o, scale, n_heads, v_dim, n_tokens): o·scale as one head of token t, in rows of a kind."""
    if kind == "plain":  # heads of any width

        @inline
        def put_plain(out, t, head, o, scale, n_heads, v_dim, n_tokens):
            at = out + 4 * (t * n_heads + head) * v_dim
            for i in range(0, v_dim, 16):
                store_first(at + 4 * i, load_f32(o + 4 * i) * scale, v_dim - i)

        return put_plain
    put = writer(kind)

    @inline
    def put_record(out, t, head, o, scale, n_heads, v_dim, n_tokens):
        for i in range(0, v_dim, 32):
            low, high = load_f32(o + 4 * i) * scale, load_f32(o + 4 * i + 64) * scale
            put(out, t, head * v_dim + i, low, high, n_heads * v_dim, n_tokens)

    return put_record


def attend(k_type: str, v_type: str, kind: str) -> Any:
    """out = softmax(q·k·scale, causal)·v for every head of every token, as rows of a kind (records.py).

    blocks: i64[n_blocks][8] of (address of the sequence's page addresses, first token of the block in the batch, its
    tokens, the first one's position, the first page to see and the page to end before, the first row of `partials`
    to write or -1 for `out`, 0), with tokens·(n_heads / n_kv_heads) <= MAX_TASK_ROWS. window: how many keys a token
    sees, its own the last; 0 for all. partials: f32[row][head][stride + 16], a row for each token of a block: the
    weighted sum of values, then the largest score and the sum of weights; stride: v_dim up to a multiple of 16.
    k_offset, v_offset, k_bytes, v_bytes: as in kv.py. A task: a block, a key head.
    """
    unpack_keys, unpack_values, put = keys_of(k_type), values_of(v_type), _head_writer(kind)
    (n_many, _), (n_few, _), _ = _SHAPES
    score_many, score_few, score_one = (_scorer(*shape) for shape in _SHAPES)
    weigh_many, weigh_few, weigh_one = (_weigher(*shape) for shape in _SHAPES)

    @inline
    def scores(s, queries, keys, first, n_rows, dim):
        r = first
        while r < n_rows:
            at, q = s + 4 * PAGE * r, queries + 4 * dim * r
            if n_rows - r >= n_many:
                score_many(at, q, keys, dim)
                r += n_many
            elif n_rows - r >= n_few:
                score_few(at, q, keys, dim)
                r += n_few
            else:
                score_one(at, q, keys, dim)
                r += 1

    @inline
    def weigh(sums, s, values, first, n_rows, n_keys, stride):
        r = first
        while r < n_rows:
            o, at = sums + 4 * stride * r, s + 4 * PAGE * r
            if n_rows - r >= n_many:
                weigh_many(o, at, values, n_keys, stride)
                r += n_many
            elif n_rows - r >= n_few:
                weigh_few(o, at, values, n_keys, stride)
                r += n_few
            else:
                weigh_one(o, at, values, n_keys, stride)
                r += 1

    def body(
        thread: int, n_threads: int, counter: int,
        q: int, out: int, blocks: int, n_heads: int, n_kv_heads: int, head_dim: int, v_dim: int, scale: float,
        window: int, k_offset: int, v_offset: int, k_bytes: int, v_bytes: int, partials: int, scratch: int,
        n_blocks: Ref, n_tokens: Ref,
    ) -> None:  # fmt: skip
        group, stride = n_heads // n_kv_heads, (v_dim + 15) // 16 * 16
        # of each row: its query, its scores, (largest score, sum of weights), its sum of values; then a page's numbers
        queries = scratch + thread * SCRATCH
        s = queries + 4 * MAX_TASK_ROWS * head_dim + 64
        states = s + 4 * MAX_TASK_ROWS * PAGE
        sums = states + 8 * MAX_TASK_ROWS
        unpacked = sums + 4 * MAX_TASK_ROWS * stride
        while True:
            task = claim(counter, thread, n_threads, n_blocks * n_kv_heads)
            if task >= n_blocks * n_kv_heads:
                break
            block, kv_head = blocks + task // n_kv_heads * 64, task % n_kv_heads
            table, first_token = get_i64(block), get_i64(block + 8)
            n_rows, position, partial = get_i64(block + 16) * group, get_i64(block + 24), get_i64(block + 48)
            for r in range(n_rows):
                at = q + 4 * ((first_token + r // group) * n_heads + kv_head * group + r % group) * head_dim
                for i in range(0, head_dim, 16):
                    v = load_first(at + 4 * i, head_dim - i) * splat_f32(scale)
                    store_first(queries + 4 * (r * head_dim + i), v, head_dim - i)
                for i in range(0, stride, 16):
                    store(sums + 4 * (r * stride + i), splat_f32(0.0))
                put_f32(states + 8 * r, _LOWEST)
                put_f32(states + 8 * r + 4, 0.0)
            keys_at, values_at = k_offset + kv_head * k_bytes, v_offset + kv_head * v_bytes
            end_page = get_i64(block + 40)
            first_page = max(get_i64(block + 32), (position + 1 - window) // PAGE) if window else get_i64(block + 32)
            for i in range(first_page, end_page):
                page, following = get_i64(table + 8 * i), get_i64(table + 8 * min(i + 1, end_page - 1))
                start = i * PAGE
                # the first token that sees any key of this page, and how many the last token sees
                r = max(0, start - position) * group
                n_keys = min(position + (n_rows - 1) // group + 1 - start, PAGE)
                unpack_keys(unpacked, page + keys_at, following + keys_at, head_dim)
                scores(s, queries, unpacked, r, n_rows, head_dim)
                for row in range(r, n_rows):
                    end = position + row // group + 1 - start
                    first = end - window if window else 0
                    _soften(s + 4 * PAGE * row, first, end, states + 8 * row, sums + 4 * stride * row, stride)
                unpack_values(unpacked, page + values_at, following + values_at, n_keys, v_dim)
                weigh(sums, s, unpacked, r, n_rows, n_keys, stride)
            for r in range(n_rows):
                o, state, head = sums + 4 * r * stride, states + 8 * r, kv_head * group + r % group
                if partial < 0:
                    total = splat_f32(1.0 / get_f32(state + 4))
                    put(out, first_token + r // group, head, o, total, n_heads, v_dim, n_tokens)
                else:
                    to = partials + 4 * ((partial + r // group) * n_heads + head) * (stride + 16)
                    for i in range(0, stride, 16):
                        store(to + 4 * i, load_f32(o + 4 * i))
                    store_first(to + 4 * stride, load_first(state, 2), 2)

    return body


def merge(kind: str) -> Any:
    """Join the partial results of blocks that were cut into spans, into `out`, as rows of a kind.

    splits: i64[n_splits][4] of (first token, tokens, the first row of `partials`, spans). A task: a split, a head.
    """
    put = _head_writer(kind)

    def body(
        thread: int, n_threads: int, counter: int,
        out: int, splits: int, n_heads: int, v_dim: int, partials: int, scratch: int, n_splits: Ref, n_tokens: Ref,
    ) -> None:  # fmt: skip
        stride = (v_dim + 15) // 16 * 16
        row_bytes, o = 4 * (stride + 16), scratch + thread * SCRATCH
        while True:
            task = claim(counter, thread, n_threads, n_splits * n_heads)
            if task >= n_splits * n_heads:
                break
            split, head = splits + task // n_heads * 32, task % n_heads
            first_token, n_own, n_spans = get_i64(split), get_i64(split + 8), get_i64(split + 24)
            span_bytes = n_own * n_heads * row_bytes
            for t in range(n_own):
                row = partials + ((get_i64(split + 16) + t) * n_heads + head) * row_bytes
                largest = get_f32(row + 4 * stride)
                for i in range(1, n_spans):
                    largest = max(largest, get_f32(row + i * span_bytes + 4 * stride))
                total = splat_f32(0.0)
                for c in range(0, stride, 16):
                    store(o + 4 * c, splat_f32(0.0))
                for i in range(n_spans):
                    at = row + i * span_bytes
                    weight = exp(splat_f32(get_f32(at + 4 * stride) - largest))
                    total = fma(weight, splat_f32(get_f32(at + 4 * stride + 4)), total)
                    for c in range(0, stride, 16):
                        store(o + 4 * c, fma(weight, load_f32(at + 4 * c), load_f32(o + 4 * c)))
                store_first(o + 4 * stride, total, 1)
                put(
                    out, first_token + t, head, o, splat_f32(1.0 / get_f32(o + 4 * stride)), n_heads, v_dim, n_tokens
                )  # fmt: skip

    return body

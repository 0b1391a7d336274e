"""Attention over a paged KV cache, with online softmax: scores exist for one page at a time.

A task is one key head and some *rows*: the heads that share it, of one or several tokens. Where tokens are few and the
context is long, tasks are also cut along the context, into spans, whose partial results `merge` joins. The method:
Milakov & Gimelshein 2018; Dao et al. 2022, 2023 (Flash-Decoding).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..layout import MAX_TASK_ROWS, MOST_DISTANCE, PAGE, SCRATCH
from ..library import Ref
from ..simd import (
    absolute,
    any_above,
    divide,
    exp2,
    first_lanes,
    fma,
    get_f32,
    get_i64,
    inline,
    lane_numbers,
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
    to_bfloat,
)
from .activation_packing import writer
from .activations import tanh
from .kv import key_loader, value_loader
from .page_products import by_pairs, direct
from .work_stealing import claim

_LOWEST = -1e30  # of all scores: what a row without any has seen; finite, so that differences are
_HIDDEN = 2 * _LOWEST
_SLACK = 8.0  # how much larger a score may be than what weights are relative to: 2^8 is no loss to a float
_LOG2_E = 1.4426950408889634  # scores are multiplied by it, so that weights are powers of two


@inline
def _hide(s, first, end):
    """Leave of a row's scores those of the keys from `first` to `end` of a page."""
    for i in range(0, PAGE, 16):
        store(s + 4 * i, last_lanes(first_lanes(load_f32(s + 4 * i), end - i, _HIDDEN), max(first - i, 0), _HIDDEN))


@inline
def _rescale(base, now, totals, o, stride):
    """Let a row's weights be relative to the score `now` instead of that at `base`."""
    scale = exp2(splat_f32(get_f32(base) - now))
    put_f32(base, now)
    store(totals, load_f32(totals) * scale)
    for i in range(0, stride, 16):
        store(o + 4 * i, load_f32(o + 4 * i) * scale)


@cache
def _softener(pairs: bool) -> Any:
    """soften(s, base, totals, o, stride): turn a row's scores of a page into weights, in their place.

    As f32, or as bf16 for pairs. base: address of the score that the row's weights are relative to; totals: f32[16],
    whose sum is that of the weights; o: the sum of values. The base follows the largest score only where it must.
    """

    @inline
    def soften(s, base, totals, o, stride):
        largest = maximum(maximum(load_f32(s), load_f32(s + 64)), maximum(load_f32(s + 128), load_f32(s + 192)))
        if any_above(largest, splat_f32(get_f32(base) + _SLACK)):
            _rescale(base, reduce_max(largest), totals, o, stride)
        now, total = splat_f32(get_f32(base)), load_f32(totals)
        for i in range(0, PAGE, 16):
            v = exp2(load_f32(s + 4 * i) - now)
            total = total + v
            if pairs:
                store(s + 2 * i, to_bfloat(v))
            else:
                store(s + 4 * i, v)
        store(totals, total)

    return soften


@inline
def _mask(mask, chosen, n_chosen, start):
    """What is added to the scores of a page, whose first position is `start`, so that only chosen keys are seen.

    chosen: f32[n_chosen], positions in order, and then -1.
    """
    for i in range(0, PAGE, 16):
        store(mask + 4 * i, splat_f32(_HIDDEN))
    low, high = 0, n_chosen
    while low < high:
        middle = (low + high) // 2
        position = get_f32(chosen + 4 * middle)
        if 0.0 <= position < start:
            low = middle + 1
        else:
            high = middle
    while low < n_chosen:
        place = int(get_f32(chosen + 4 * low)) - start
        if place < 0 or place >= PAGE:
            break
        put_f32(mask + 4 * place, 0.0)
        low += 1


@cache
def _scorer(terms: str) -> Any:
    """change(s, at, head, softcap, slopes, bias): what a row's scores of a page become, in their place.

    at: position of the row's token, counted from the page's first. terms: "softcap", "alibi", "bias", or some of them.
    """
    soft, sloped, biased = "softcap" in terms, "alibi" in terms, "bias" in terms

    @inline
    def change(s, at, head, softcap, slopes, bias):
        cap, slope = splat_f32(softcap * _LOG2_E), splat_f32(0.0)
        if sloped:
            slope = splat_f32(get_f32(slopes + 4 * head) * _LOG2_E)
        for i in range(0, PAGE, 16):
            v = load_f32(s + 4 * i)
            if soft:
                v = cap * tanh(divide(v, cap))
            if sloped:
                v = v - slope * absolute(splat_f32(at - i) - lane_numbers())
            store(s + 4 * i, v)
        if biased:
            for i in range(PAGE):
                distance = min(max(at - i, -MOST_DISTANCE), MOST_DISTANCE) + MOST_DISTANCE
                added = get_f32(bias + 4 * (head * (2 * MOST_DISTANCE + 1) + distance)) * _LOG2_E
                put_f32(s + 4 * i, get_f32(s + 4 * i) + added)

    return change


@inline
def _mask_between(mask, start, stride):
    """The same, where each stride-th key is seen."""
    for i in range(PAGE):
        put_f32(mask + 4 * i, 0.0 if (start + i) % stride == stride - 1 else _HIDDEN)


def _page(k_type: str, v_type: str, pairs: bool, terms: str) -> Any:
    """see(first, n_rows, q, s, bases, totals, sums, keys, …): let rows, from the first on, see a page.

    start: the page's first position; place: of the task's first token, counted from it; n_keys: of the sequence, the
    same. pairs: multiply bf16. terms: as in `attend`.
    """
    multiply, soften = by_pairs if pairs else direct, _softener(pairs)
    add_scores, add_values = multiply(key_loader(k_type)), multiply(value_loader(v_type))
    both, in_chunks = "both" in terms, "chunk" in terms
    only, between = "chosen" in terms, "summaries" in terms and "chosen" not in terms
    changed, change = any(term in terms for term in ("softcap", "alibi", "bias")), _scorer(terms)

    @inline
    def see(
        first, n_rows, q, s, bases, totals, sums, keys, next_keys, values, next_values, group, place, window, dim,
        stride, spare, start, n_keys, first_head, chunk, softcap, slopes, bias, chosen, n_chosen, mask, stride_seen,
    ):  # fmt: skip
        for i in range(first * PAGE // 16, n_rows * PAGE // 16):
            store(s + 64 * i, splat_f32(0.0))
        at, n = s + 4 * PAGE * first, n_rows - first
        add_scores(at, 4 * PAGE, q + 4 * dim * first, 4 * dim, n, keys, next_keys, dim, PAGE, spare)
        for row in range(first, n_rows):
            at_token = place + row // group
            if changed:
                change(s + 4 * PAGE * row, at_token, first_head + row % group, softcap, slopes, bias)
            if both:
                end, before = n_keys, 0
                if window:
                    end, before = min(n_keys, at_token + window // 2 + 1), at_token - window // 2
            else:
                end = at_token + 1
                before = end - window if window else 0
            if in_chunks:
                before = max(before, (at_token + start) // chunk * chunk - start)
            if only and (row == first or row % group == 0):
                _mask(mask, chosen + 4 * n_chosen * (row // group), n_chosen, start)
            if between and row == first:
                _mask_between(mask, start, stride_seen)
            if only or between:
                for i in range(0, PAGE, 16):
                    at_score = s + 4 * (PAGE * row + i)
                    store(at_score, load_f32(at_score) + load_f32(mask + 4 * i))
            if end < PAGE or before > 0:
                _hide(s + 4 * PAGE * row, before, end)
            soften(s + 4 * PAGE * row, bases + 4 * row, totals + 64 * row, sums + 4 * stride * row, stride)
        n_seen = min(n_keys if both else place + (n_rows - 1) // group + 1, PAGE)
        add_values(
            sums + 4 * stride * first, 4 * stride, at, 4 * PAGE, n, values, next_values, n_seen, stride, spare
        )  # fmt: skip

    return see


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


@inline
def _begin(q, first_token, kv_head, n_rows, group, n_heads, dim, scale, pairs, queries, bases, totals, sums, stride):
    """Fetch the rows' queries, times scale, as f32 or as bf16; nothing is seen yet."""
    for r in range(n_rows):
        at = q + 4 * ((first_token + r // group) * n_heads + kv_head * group + r % group) * dim
        for i in range(0, dim, 16):
            v = load_first(at + 4 * i, dim - i) * splat_f32(scale * _LOG2_E)
            if pairs:
                store(queries + 4 * r * dim + 2 * i, to_bfloat(v))
            else:
                store_first(queries + 4 * (r * dim + i), v, dim - i)
        for i in range(0, stride, 16):
            store(sums + 4 * (r * stride + i), splat_f32(0.0))
        store(totals + 64 * r, splat_f32(0.0))
        put_f32(bases + 4 * r, _LOWEST)


@inline
def _sunk(sinks, head, base):
    """The weight of a head's sink, relative to a score."""
    return reduce_max(exp2(splat_f32(min(get_f32(sinks + 4 * head) * _LOG2_E - base, 126.0))))


@inline
def _save_partial(to, o, base, total, stride):
    for i in range(0, stride, 16):
        store(to + 4 * i, load_f32(o + 4 * i))
    put_f32(to + 4 * stride, base)
    put_f32(to + 4 * stride + 4, total)


def attend(k_type: str, v_type: str, kind: str, how: str = "exact", terms: str = "") -> Any:
    """out = softmax(q·k·scale, causal)·v for every head of every token, as rows of a kind (activation_packing.py).

    blocks: i64[n_blocks][9] of (address of the sequence's page addresses, first token of the block in the batch, its
    tokens, the first one's position, the first page to see and the page to end before, the first row of `partials`
    to write or -1 for `out`, whether it may be rounded, keys of the sequence), with tokens·(n_heads / n_kv_heads) <=
    MAX_TASK_ROWS. window: how many keys a token sees, its own the last; 0 for all. partials: f32[row][head][stride +
    16], a row for each token of a block: the weighted sum of values, then the score that weights are relative to, and
    their sum; stride: v_dim up to 16s. k_offset, v_offset, k_bytes, v_bytes: as in kv.py. how: "bfloats" where blocks
    that may be rounded multiply bf16. A task: a block, a key head.

    terms, joined by "+": "both": tokens see those after them too, and half of a window on each side; "chunk": only
    their own `chunk` of the sequence; "softcap": scores become c·tanh(score / c); "alibi": less slopes[head]·distance;
    "bias": plus bias[head][distance + MOST_DISTANCE]; "sinks": sinks[head] joins the softmax and gives nothing;
    "chosen": tokens see only the keys at chosen[token][n_chosen], see `_mask`; "summaries": beside those in the window,
    each stride_seen-th key of another slot, at summary_keys and summary_values in the pages of `summaries`, which are
    as `blocks`; what is chosen is then chosen among these.
    """
    summarised = "summaries" in terms
    own_terms = terms.replace("chosen", "").replace("summaries", "") if summarised else terms
    bfloats, put, see_exactly = how == "bfloats", _head_writer(kind), _page(k_type, v_type, False, own_terms)
    see_rounded = _page(k_type, v_type, True, own_terms) if bfloats else see_exactly
    see_summaries = _page(k_type, v_type, False, terms)
    see_rounded_summaries = _page(k_type, v_type, True, terms) if bfloats else see_summaries
    both, in_chunks, sunk = "both" in terms, "chunk" in terms, "sinks" in terms

    def body(
        thread: int, n_threads: int, counter: int,
        q: int, out: int, blocks: int, n_heads: int, n_kv_heads: int, head_dim: int, v_dim: int, scale: float,
        chosen: int, n_chosen: int, summaries: int, summary_keys: int, summary_values: int, stride_seen: int,
        window: int, chunk: int, softcap: float, slopes: int, bias: int, sinks: int,
        k_offset: int, v_offset: int, k_bytes: int, v_bytes: int, partials: int, scratch: int,
        n_blocks: Ref, n_tokens: Ref,
    ) -> None:  # fmt: skip
        group, stride = n_heads // n_kv_heads, (v_dim + 15) // 16 * 16
        # of each row: its query, scores, base, sums of weights, and its sum of values; then a page's bf16
        queries = scratch + thread * SCRATCH
        s = queries + 4 * MAX_TASK_ROWS * head_dim + 64
        bases = s + 4 * MAX_TASK_ROWS * PAGE
        totals = bases + 4 * MAX_TASK_ROWS
        sums = totals + 64 * MAX_TASK_ROWS
        mask = sums + 4 * MAX_TASK_ROWS * stride
        spare = mask + 4 * PAGE
        while True:
            task = claim(counter, thread, n_threads, n_blocks * n_kv_heads)
            if task >= n_blocks * n_kv_heads:
                break
            block, kv_head = blocks + task // n_kv_heads * 72, task % n_kv_heads
            table, first_token = get_i64(block), get_i64(block + 8)
            n_rows, position, partial = get_i64(block + 16) * group, get_i64(block + 24), get_i64(block + 48)
            rounded = bfloats and get_i64(block + 56) > 0
            _begin(
                q, first_token, kv_head, n_rows, group, n_heads, head_dim, scale, rounded, queries, bases,
                totals, sums, stride,
            )  # fmt: skip
            keys, values = k_offset + kv_head * k_bytes, v_offset + kv_head * v_bytes
            first_page, end_page = get_i64(block + 32), get_i64(block + 40)
            if window:
                first_page = max(first_page, (position - window // 2 if both else position + 1 - window) // PAGE)
            if in_chunks:
                first_page = max(first_page, position // chunk * chunk // PAGE)
            own = chosen + 4 * first_token * n_chosen
            for i in range(first_page, end_page):
                page, following = get_i64(table + 8 * i), get_i64(table + 8 * min(i + 1, end_page - 1))
                place = position - i * PAGE
                # the row of the first token that sees any key of this page
                first = 0 if both else max(0, -place) * group
                n_keys = get_i64(block + 64) - i * PAGE
                if rounded:
                    see_rounded(
                        first, n_rows, queries, s, bases, totals, sums, page + keys, following + keys, page + values,
                        following + values, group, place, window, head_dim, stride, spare, i * PAGE, n_keys,
                        kv_head * group, chunk, softcap, slopes, bias, own, n_chosen, mask, 1,
                    )  # fmt: skip
                else:
                    see_exactly(
                        first, n_rows, queries, s, bases, totals, sums, page + keys, following + keys, page + values,
                        following + values, group, place, window, head_dim, stride, spare, i * PAGE, n_keys,
                        kv_head * group, chunk, softcap, slopes, bias, own, n_chosen, mask, 1,
                    )  # fmt: skip
            for i in range(get_i64(block + 32) if summarised else end_page, end_page):
                other = get_i64(summaries + task // n_kv_heads * 72)
                page, following = get_i64(other + 8 * i), get_i64(other + 8 * min(i + 1, end_page - 1))
                k_at, v_at = summary_keys + kv_head * k_bytes, summary_values + kv_head * v_bytes
                place, n_keys = position - i * PAGE, get_i64(block + 64) - i * PAGE
                first = max(0, -place) * group
                if rounded:
                    see_rounded_summaries(
                        first, n_rows, queries, s, bases, totals, sums, page + k_at, following + k_at, page + v_at,
                        following + v_at, group, place, 0, head_dim, stride, spare, i * PAGE, n_keys,
                        kv_head * group, chunk, softcap, slopes, bias, own, n_chosen, mask, stride_seen,
                    )  # fmt: skip
                else:
                    see_summaries(
                        first, n_rows, queries, s, bases, totals, sums, page + k_at, following + k_at, page + v_at,
                        following + v_at, group, place, 0, head_dim, stride, spare, i * PAGE, n_keys,
                        kv_head * group, chunk, softcap, slopes, bias, own, n_chosen, mask, stride_seen,
                    )  # fmt: skip
            for r in range(n_rows):
                t, head, o = r // group, kv_head * group + r % group, sums + 4 * r * stride
                total = reduce_add(load_f32(totals + 64 * r))
                if partial < 0:
                    if sunk:
                        total += _sunk(sinks, head, get_f32(bases + 4 * r))
                    put(out, first_token + t, head, o, splat_f32(1.0 / total), n_heads, v_dim, n_tokens)
                else:
                    to = partials + 4 * ((partial + t) * n_heads + head) * (stride + 16)
                    _save_partial(to, o, get_f32(bases + 4 * r), total, stride)

    return body


def merge(kind: str, terms: str = "") -> Any:
    """Join the partial results of blocks that were cut into spans, into `out`, as rows of a kind.

    splits: i64[n_splits][4] of (first token, tokens, the first row of `partials`, spans). A task: a split, a head.
    terms: as in `attend`.
    """
    put, sunk = _head_writer(kind), "sinks" in terms

    def body(
        thread: int, n_threads: int, counter: int,
        out: int, splits: int, n_heads: int, v_dim: int, sinks: int, partials: int, scratch: int,
        n_splits: Ref, n_tokens: Ref,
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
                total = splat_f32(_sunk(sinks, head, largest) if sunk else 0.0)
                for c in range(0, stride, 16):
                    store(o + 4 * c, splat_f32(0.0))
                for i in range(n_spans):
                    at = row + i * span_bytes
                    weight = exp2(splat_f32(get_f32(at + 4 * stride) - largest))
                    total = fma(weight, splat_f32(get_f32(at + 4 * stride + 4)), total)
                    for c in range(0, stride, 16):
                        store(o + 4 * c, fma(weight, load_f32(at + 4 * c), load_f32(o + 4 * c)))
                store_first(o + 4 * stride, total, 1)
                put(
                    out, first_token + t, head, o, splat_f32(1.0 / get_f32(o + 4 * stride)), n_heads, v_dim, n_tokens
                )  # fmt: skip

    return body

"""Experts of a token: which they are, the pairs of tokens and experts put in the experts' order, and sums of heads.

A pair is a token with one of its n_used experts: number token·n_used + i. Products take pairs by *slots*, i32[n] in
which each expert's pairs lie together, and by *parts*: (expert, first slot, end), i64[4]. There are two orders: of
experts with few pairs, and of the others, whose slots begin at a multiple of LANES and whose parts have at most
MOST_TOKENS. The first part is (number of slots, …), the last ones may be empty: how many items an operation has must
follow from its arguments alone, as a thread that comes late may find what later operations have written.
"""

from __future__ import annotations

from typing import Any

from ..layout import LANES, MOST_EXPERTS, MOST_TOKENS, PART_BYTES, SCRATCH
from ..library import Ref
from ..simd import (
    divide,
    exp,
    first_lanes,
    fma,
    get_f32,
    get_i32,
    get_i64,
    get_u8,
    inline,
    load_f32,
    load_first,
    maximum,
    put_f32,
    put_i8,
    put_i32,
    put_i64,
    reduce_add,
    reduce_max,
    splat_f32,
    store,
    store_first,
)
from .activations import sigmoid, softplus
from .work_stealing import claim

_LOWEST = -3.0e38
_PART = 1024  # columns of a row that a thread takes at a time
#: In a thread's scratch: weights and scores of all experts, whether each was taken, scores of groups, whether …
_SCORES, _TAKEN, _GROUPS, _TAKEN_GROUPS = (MOST_EXPERTS * n for n in (4, 8, 9, 13))


@inline
def _softmax(x, n):
    """f32[n] in place."""
    largest, total = splat_f32(_LOWEST), splat_f32(0.0)
    for i in range(0, n, 16):
        largest = maximum(largest, first_lanes(load_first(x + 4 * i, n - i), n - i, _LOWEST))
    most = splat_f32(reduce_max(largest))
    for i in range(0, n, 16):
        store_first(x + 4 * i, exp(load_first(x + 4 * i, n - i) - most), n - i)
        total = total + load_first(x + 4 * i, n - i)
    total = splat_f32(reduce_add(total))
    for i in range(0, n, 16):
        store_first(x + 4 * i, divide(load_first(x + 4 * i, n - i), total), n - i)


@inline
def _sigmoid(x, n):
    for i in range(0, n, 16):
        store_first(x + 4 * i, sigmoid(load_first(x + 4 * i, n - i)), n - i)


@inline
def _sqrt_softplus(x, n):
    for i in range(0, n, 16):
        store_first(x + 4 * i, softplus(load_first(x + 4 * i, n - i)), n - i)
    for i in range(n):
        put_f32(x + 4 * i, get_f32(x + 4 * i) ** 0.5)


@inline
def _none(x, n):
    pass


@inline
def _take(scores, taken, n):
    """The greatest of f32[n] that was not taken, the first of equal ones; a number below n whatever the scores are."""
    best, most = -1, 0.0
    for i in range(n):
        if get_u8(taken + i) == 0:
            score = get_f32(scores + 4 * i)
            if best < 0 or score > most:
                best, most = i, score
    put_i8(taken + best, 1)
    return best


@inline
def _clear(at, n):
    for i in range(n):
        put_i8(at + i, 0)


@inline
def _leave_groups(scores, n, groups, groups_used, sums, taken):
    """Set to the lowest score what is in none of the best groups: those whose best two have the greatest sums."""
    size = n // groups
    for g in range(groups):
        first, second = _LOWEST, _LOWEST
        for i in range(g * size, (g + 1) * size):
            score = get_f32(scores + 4 * i)
            if score > first:
                first, second = score, first
            elif score > second:
                second = score
        put_f32(sums + 4 * g, first + second if size > 1 else first)
    _clear(taken, groups)
    for _ in range(groups_used):
        _take(sums, taken, groups)
    for g in range(groups):
        if get_u8(taken + g) == 0:
            for i in range(g * size, (g + 1) * size):
                put_f32(scores + 4 * i, _LOWEST)


def route(gating: str) -> Any:
    """out: f32[token][n_used][2], number and weight of each expert; logits: f32[token][n_experts].

    The rest as in operations.Route. selection, expert_scale: f32[n_experts] or 0. experts: i32[id][n_used] with ids of
    the tokens, or 0.
    """
    of_all = {"softmax": _softmax, "sigmoid": _sigmoid, "sqrt_softplus": _sqrt_softplus}.get(gating, _none)
    of_used = _softmax if gating == "softmax_used" else _none

    def body(
        thread: int, n_threads: int, counter: int,
        logits: int, n_experts: int, n_used: int, selection: int, by_logits: int, groups: int, groups_used: int,
        share: int, experts: int, ids: int, normalise: int, scale: float, expert_scale: int, out: int, scratch: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        weights = scratch + thread * SCRATCH
        scores, taken = weights + _SCORES, weights + _TAKEN
        while True:
            t = claim(counter, thread, n_threads, n_tokens)
            if t >= n_tokens:
                break
            x, to = logits + 4 * t * n_experts, out + 8 * t * n_used
            for i in range(0, n_experts, 16):
                store(weights + 4 * i, load_first(x + 4 * i, n_experts - i))
            of_all(weights, n_experts)
            if experts:
                for i in range(n_used):
                    put_f32(to + 8 * i, get_i32(experts + 4 * (get_i32(ids + 4 * t) * n_used + i)))
            else:
                for i in range(0, n_experts, 16):
                    score = load_f32(weights + 4 * i)
                    if by_logits:
                        score = load_first(x + 4 * i, n_experts - i)
                    if selection:
                        score = score + load_first(selection + 4 * i, n_experts - i)
                    store(scores + 4 * i, score)
                if groups > 1:
                    sums, taken_groups = weights + _GROUPS, weights + _TAKEN_GROUPS
                    _leave_groups(scores, n_experts, groups, groups_used, sums, taken_groups)
                _clear(taken, n_experts)
                for i in range(n_used):
                    put_f32(to + 8 * i, _take(scores, taken, n_experts) // share)
            for i in range(n_used):  # `scores` are done with
                put_f32(scores + 4 * i, get_f32(weights + 4 * int(get_f32(to + 8 * i))))
            of_used(scores, n_used)
            total = 0.0
            for i in range(n_used):
                total += get_f32(scores + 4 * i)
            factor = scale / max(total, 2.0**-14) if normalise else scale
            for i in range(n_used):
                weight = get_f32(scores + 4 * i) * factor
                if expert_scale:
                    weight *= get_f32(expert_scale + 4 * int(get_f32(to + 8 * i)))
                put_f32(to + 8 * i + 4, weight)

    return body


@inline
def most_parts(n_pairs, n_experts):
    """How many parts there may be."""
    return min(n_pairs, n_experts) + n_pairs // MOST_TOKENS


@inline
def most_lanes(n_pairs, n_experts):
    """How many slots there may be where each expert's begin at a multiple of LANES."""
    return (n_pairs + (LANES - 1) * min(n_pairs, n_experts)) // LANES * LANES


@inline
def _add_part(parts, n_parts, expert, first, end):
    part = parts + PART_BYTES * (n_parts + 1)
    put_i64(part, expert)
    put_i64(part + 8, first)
    put_i64(part + 16, end)
    return n_parts + 1


@inline
def _end_parts(parts, n_parts, n_slots, most):
    put_i64(parts, n_slots)
    for empty in range(n_parts, most):
        _add_part(parts, empty, 0, 0, 0)


def group() -> Any:
    """Put pairs in the experts' order.

    route: as `route` gives it, or 0, where each token has all n_used of n_experts in their order. few: how many pairs
    an expert has at most whose slots and parts are row_slots and row_parts; slots and parts are the others'. Those
    left over in lanes get no pair, −1.
    """

    @inline
    def expert_of(route, pair, n_used):
        return int(get_f32(route + 8 * pair)) if route else pair % n_used

    @inline
    def lay_out(counts, n_experts, few, row_parts, parts, slots, most):
        """Write the parts; counts: how many pairs each expert has, which become the places of the first."""
        n_rows, n_lanes, n_row_parts, n_parts = 0, 0, 0, 0
        for expert in range(n_experts):
            n, at = get_i64(counts + 16 * expert), counts + 16 * expert
            put_i64(at, n_rows if n <= few else n_lanes)
            put_i64(at + 8, n <= few)
            if n > few:
                end = n_lanes + n
                while n_lanes < end:
                    last = min(n_lanes + MOST_TOKENS, end)
                    n_parts = _add_part(parts, n_parts, expert, n_lanes, last)
                    n_lanes = last
                while n_lanes % LANES:
                    put_i32(slots + 4 * n_lanes, -1)
                    n_lanes += 1
            elif n > 0:
                n_row_parts = _add_part(row_parts, n_row_parts, expert, n_rows, n_rows + n)
                n_rows += n
        _end_parts(row_parts, n_row_parts, n_rows, most)
        _end_parts(parts, n_parts, n_lanes, most)

    def body(
        thread: int, n_threads: int, counter: int,
        route: int, n_used: int, n_experts: int, few: int, row_parts: int, row_slots: int, parts: int, slots: int,
        scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        counts, n_pairs = scratch + thread * SCRATCH, n_tokens * n_used
        if claim(counter, thread, n_threads, 1) < 1:
            for expert in range(n_experts):
                put_i64(counts + 16 * expert, 0)
            for pair in range(n_pairs):
                at = counts + 16 * expert_of(route, pair, n_used)
                put_i64(at, get_i64(at) + 1)
            lay_out(counts, n_experts, few, row_parts, parts, slots, most_parts(n_pairs, n_experts))
            for pair in range(n_pairs):
                at = counts + 16 * expert_of(route, pair, n_used)
                place = get_i64(at)
                put_i32((row_slots if get_i64(at + 8) else slots) + 4 * place, pair)
                put_i64(at, place + 1)

    return body


def expert_scale() -> Any:
    """out = x·factors[e], rows of n_columns, for the expert e of each pair of a token and one of its n_used experts."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, route: int, factors: int, out: int, n_used: int, n_columns: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        n_items = n_tokens * n_used
        while True:
            row = claim(counter, thread, n_threads, n_items)
            if row >= n_items:
                break
            factor = splat_f32(get_f32(factors + 4 * int(get_f32(route + 8 * row))))
            for c in range(0, n_columns, LANES):
                at, n = 4 * (row * n_columns + c), n_columns - c
                store_first(out + at, factor * load_first(x + at, n), n)

    return body


def combine() -> Any:
    """out[token][i] = Σⱼ weights[token][i][j]·x[token][j], rows of n_columns; i below n_out, j below n_in.

    weights: of a token w_token floats, of which one in w_step counts; or 0 for sums.
    """

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, weights: int, w_token: int, w_step: int, out: int, n_out: int, n_in: int, n_columns: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        parts = (n_columns + _PART - 1) // _PART
        n_items = n_tokens * n_out * parts
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            row, first = item // parts, item % parts * _PART
            t, i = row // n_out, row % n_out
            w = weights + 4 * (t * w_token + i * n_in * w_step)
            for c in range(first, min(first + _PART, n_columns), LANES):
                total, n = splat_f32(0.0), n_columns - c
                for j in range(n_in):
                    value = load_first(x + 4 * ((t * n_in + j) * n_columns + c), n)
                    factor = splat_f32(get_f32(w + 4 * j * w_step) if weights else 1.0)
                    total = fma(factor, value, total)
                store_first(out + 4 * (row * n_columns + c), total, n)

    return body

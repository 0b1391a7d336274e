"""What samplers ask of rows of logits, so that Python need not go through them: the largest, and sums of exponentials.

Rows are cut into parts, one where there are as many rows as threads. Of each part the largest are found in one pass:
what is above a threshold goes into a buffer; once that is full, all but the largest leave it, the least of which are
the next threshold.
"""

from __future__ import annotations

from typing import Any

from ..layout import SCRATCH
from ..library import Ref
from ..simd import (
    above,
    count_from,
    exp,
    first_lanes,
    get_f32,
    get_i32,
    inline,
    load_f32,
    load_first,
    load_i32,
    lowest_bit,
    maximum,
    put_f64,
    put_i32,
    put_sum,
    reduce_add,
    reduce_max,
    splat_f32,
    splat_i32,
    store,
)
from .work_stealing import claim

_GREATEST, _LEAST = 0x7FFFFFFF, -0x80000000  # keys: the first as a float is no number, so nothing is below it
_NO_FLOAT = 0x7F800000  # bits of a float without its sign: more are no number
_ROOM = 4  # times as many as are wanted: when the buffer is full
_SUMMED = 1024  # exponentials that are added up in lanes, before the sum goes on in float64


@inline
def _key(at):
    """An integer for the float at an address, in the order of floats: equal for 0 and -0, the greatest for NaN."""
    bits = get_i32(at)
    if bits & _GREATEST > _NO_FLOAT:
        return _GREATEST
    key = bits ^ (bits >> 63 & _GREATEST)
    return key + (key == -1)


@inline
def _count(keys, n, least, sum_at):
    """How many of n keys are `least` or larger."""
    counts, bound = splat_i32(0), splat_i32(least)
    for i in range(0, n, 16):
        counts = count_from(counts, load_i32(keys + 4 * i), bound)
    put_sum(sum_at, counts)
    return get_i32(sum_at)


@inline
def _keep_largest(keys, ids, n, k, low, sum_at):
    """Keep the k largest of n > k keys, of equals the first, with their ids, in order; gives a key that they reach and
    at most k others exceed. low: a key that k reach; behind the keys there must be room for 16."""
    store(keys + 4 * n, splat_i32(_LEAST))
    high, n_low, n_above = _GREATEST, n, 0
    while low < high and n_low != k:  # halve the range in which the k-th largest lies
        middle = low + (high - low + 1) // 2
        count = _count(keys, n, middle, sum_at)
        if count >= k:
            low, n_low = middle, count
        else:
            high, n_above = middle - 1, count
    n_equal = n  # of the least that are kept, as many as there are
    if n_low > k:
        n_equal = k - n_above
    to = 0
    for i in range(n):
        key = get_i32(keys + 4 * i)
        equal = key == low
        put_i32(keys + 4 * to, key)
        put_i32(ids + 4 * to, get_i32(ids + 4 * i))
        to += key > low or (equal and n_equal > 0)
        n_equal -= equal
    return low


@inline
def _threshold(at, key):
    """The float of a key, by way of memory."""
    put_i32(at, key ^ (key >> 63 & _GREATEST))
    return splat_f32(get_f32(at))


@inline
def _above(x, n, threshold):
    """A bit for each of 64 floats, of which n are there: whether it is above the threshold, or no number."""
    if n >= 64:
        return (
            above(load_f32(x), threshold) | above(load_f32(x + 64), threshold) << 16
            | above(load_f32(x + 128), threshold) << 32 | above(load_f32(x + 192), threshold) << 48
        )  # fmt: skip
    found = 0
    for i in range(0, n, 16):
        found |= above(load_first(x + 4 * i, n - i), threshold) << i
    return found & ((1 << n) - 1)


def largest_of_parts() -> Any:
    """out[row][part] = the columns of the k largest numbers of this part of a row, i32, ascending; of equals, the first
    ones. A NaN counts as larger than all numbers. x: f32[row][n_columns]; parts must have k columns at least."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: Ref, out: Ref, n_rows: Ref, n_parts: Ref, n_columns: Ref, k: Ref, scratch: int,
    ) -> None:  # fmt: skip
        room = _ROOM * k + 64
        sum_at = scratch + thread * SCRATCH
        keys = sum_at + 64
        ids = keys + 4 * (room + 64 + 16)
        n_items = n_rows * n_parts
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            row, part = x + 4 * (item // n_parts) * n_columns, item % n_parts
            end = n_columns * (part + 1) // n_parts
            n, least = 0, _LEAST
            threshold = _threshold(sum_at, _GREATEST)
            for c in range(n_columns * part // n_parts, end, 64):
                found = _above(row + 4 * c, end - c, threshold)
                while found != 0:
                    i = c + lowest_bit(found)
                    put_i32(keys + 4 * n, _key(row + 4 * i))
                    put_i32(ids + 4 * n, i)
                    n += 1
                    found &= found - 1
                if n >= room:
                    least = _keep_largest(keys, ids, n, k, least, sum_at)
                    threshold = _threshold(sum_at, least)
                    n = k
            if n > k:
                _keep_largest(keys, ids, n, k, least, sum_at)
            to = out + 4 * k * item
            for i in range(k):
                put_i32(to + 4 * i, get_i32(ids + 4 * i))

    return body


def largest() -> Any:
    """out[row] = those of all parts of a row; found: what `largest_of_parts` gave."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: Ref, found: Ref, out: Ref, n_rows: Ref, n_parts: Ref, n_columns: Ref, k: Ref, scratch: int,
    ) -> None:  # fmt: skip
        n = n_parts * k
        sum_at = scratch + thread * SCRATCH
        keys = sum_at + 64
        ids = keys + 4 * (n + 16)
        while True:
            t = claim(counter, thread, n_threads, n_rows)
            if t >= n_rows:
                break
            for i in range(n):
                column = get_i32(found + 4 * (t * n + i))
                put_i32(keys + 4 * i, _key(x + 4 * (t * n_columns + column)))
                put_i32(ids + 4 * i, column)
            if n > k:
                _keep_largest(keys, ids, n, k, _LEAST, sum_at)
            for i in range(k):
                put_i32(out + 4 * (t * k + i), get_i32(ids + 4 * i))

    return body


def sums_of_parts() -> Any:
    """out[row][part] = the largest number of this part of a row, and the sum of all e^(number - largest), as f64."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: Ref, out: Ref, n_rows: Ref, n_parts: Ref, n_columns: Ref,
    ) -> None:  # fmt: skip
        n_items = n_rows * n_parts
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            row, part = x + 4 * (item // n_parts) * n_columns, item % n_parts
            first, end = n_columns * part // n_parts, n_columns * (part + 1) // n_parts
            most = splat_f32(get_f32(row + 4 * first))
            for c in range(first, end, 16):
                most = maximum(most, first_lanes(load_first(row + 4 * c, end - c), end - c, get_f32(row + 4 * first)))
            best = reduce_max(most)
            total = 0.0
            for block in range(first, end, _SUMMED):
                sums, last = splat_f32(0.0), min(block + _SUMMED, end)
                for c in range(block, last, 16):
                    n = last - c
                    sums = sums + first_lanes(exp(load_first(row + 4 * c, n) - splat_f32(best)), n, 0.0)
                total += reduce_add(sums)
            put_f64(out + 16 * item, best)
            put_f64(out + 16 * item + 8, total)

    return body

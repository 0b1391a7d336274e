"""Operations with a state of each sequence: convolutions, the token before, recurrences.

A batch's sequences are `groups`, i64[n_groups][2] of (first segment, segments); `segments` are i64[…][4] of (first
token in the batch, tokens, address of the record with the state before them, 0 for none, address of that for the state
after them), which may be the same. `state`: where the operation's part of a record begins, in bytes.

A recurrence keeps of each head a matrix S of n rows and `width` columns, as f32[columns / 16][n][16]: columns have no
effect on each other, so that 16 of them are a task, whose part of the state stays near from token to token.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..layout import SCRATCH
from ..library import Ref
from ..simd import exp, fma, get_f32, get_i64, inline, load_f32, load_first, reduce_add, splat_f32, store, store_first
from .work_stealing import claim

_PART = 64  # columns that a thread takes at a time


def conv(biased: str) -> Any:
    """out[t] = Σ weight[tap]·x[t - (taps - 1 - tap)·dilation] (+ bias): weight f32[taps][n_columns]."""
    with_bias = biased == "bias"

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, weight: int, bias: int, out: int, groups: int, segments: int, state: int, zeros: int,
        n_columns: int, taps: int, dilation: int, n_groups: Ref,
    ) -> None:  # fmt: skip
        parts, n_before, size = (n_columns + _PART - 1) // _PART, (taps - 1) * dilation, 4 * n_columns
        while True:
            task = claim(counter, thread, n_threads, n_groups * parts)
            if task >= n_groups * parts:
                break
            group, part = groups + task // parts * 16, task % parts * _PART
            for i in range(get_i64(group), get_i64(group) + get_i64(group + 8)):
                segment = segments + 32 * i
                first, n_tokens = get_i64(segment), get_i64(segment + 8)
                before, to = get_i64(segment + 16) + state, get_i64(segment + 24) + state
                step = size
                if get_i64(segment + 16) == 0:  # every row before is the same one of zeros
                    before, step = zeros, 0
                at = x + first * size
                for c in range(part, min(part + _PART, n_columns), 16):
                    n = n_columns - c
                    for t in range(n_tokens):
                        y = splat_f32(0.0)
                        if with_bias:
                            y = load_first(bias + 4 * c, n)
                        for tap in range(taps):
                            r = t + tap * dilation
                            row = before + r * step if r < n_before else at + (r - n_before) * size
                            y = fma(load_first(weight + tap * size + 4 * c, n), load_first(row + 4 * c, n), y)
                        store_first(out + (first + t) * size + 4 * c, y, n)
                    for i_row in range(n_before):
                        r = n_tokens + i_row
                        row = before + r * step if r < n_before else at + (r - n_before) * size
                        store_first(to + i_row * size + 4 * c, load_first(row + 4 * c, n), n)

    return body


def shift() -> Any:
    """out[t] = x[t - 1]."""

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, out: int, groups: int, segments: int, state: int, zeros: int, n_columns: int, n_groups: Ref,
    ) -> None:  # fmt: skip
        parts, size = (n_columns + _PART - 1) // _PART, 4 * n_columns
        while True:
            task = claim(counter, thread, n_threads, n_groups * parts)
            if task >= n_groups * parts:
                break
            group, part = groups + task // parts * 16, task % parts * _PART
            for i in range(get_i64(group), get_i64(group) + get_i64(group + 8)):
                segment = segments + 32 * i
                first, n_tokens, before = get_i64(segment), get_i64(segment + 8), get_i64(segment + 16)
                row = before + state if before else zeros
                for c in range(4 * part, 4 * min(part + _PART, n_columns), 64):
                    n, v = n_columns - c // 4, load_first(row + c, n_columns - c // 4)
                    for t in range(first, first + n_tokens):
                        store_first(out + t * size + c, v, n)
                        v = load_first(x + t * size + c, n)
                    store_first(get_i64(segment + 24) + state + c, v, n)

    return body


@inline
def _read(keys, s, n):
    """Sᵀ·keys of 16 columns."""
    even, odd = splat_f32(0.0), splat_f32(0.0)
    for i in range(0, n - 1, 2):
        even = fma(splat_f32(get_f32(keys + 4 * i)), load_f32(s + 64 * i), even)
        odd = fma(splat_f32(get_f32(keys + 4 * i + 4)), load_f32(s + 64 * i + 64), odd)
    if n % 2:
        even = fma(splat_f32(get_f32(keys + 4 * n - 4)), load_f32(s + 64 * n - 64), even)
    return even + odd


@cache
def _writer(decay: str) -> Any:
    """write(s, to, n, d, k, v, q): S = d·S + k⊗v; gives Sᵀ·q. d: of each row, or "one" for all."""
    one = decay == "one"

    @inline
    def write(s, to, n, d, k, v, q):
        even, odd, f = splat_f32(0.0), splat_f32(0.0), splat_f32(get_f32(d))
        for i in range(0, n - 1, 2):
            g = f if one else splat_f32(get_f32(d + 4 * i + 4))
            if not one:
                f = splat_f32(get_f32(d + 4 * i))
            x = fma(splat_f32(get_f32(k + 4 * i)), v, f * load_f32(s + 64 * i))
            y = fma(splat_f32(get_f32(k + 4 * i + 4)), v, g * load_f32(s + 64 * i + 64))
            store(to + 64 * i, x)
            store(to + 64 * i + 64, y)
            even = fma(splat_f32(get_f32(q + 4 * i)), x, even)
            odd = fma(splat_f32(get_f32(q + 4 * i + 4)), y, odd)
        if n % 2:
            i = n - 1
            f = f if one else splat_f32(get_f32(d + 4 * i))
            x = fma(splat_f32(get_f32(k + 4 * i)), v, f * load_f32(s + 64 * i))
            store(to + 64 * i, x)
            even = fma(splat_f32(get_f32(q + 4 * i)), x, even)
        return even + odd

    return write


@inline
def _exps(x, factor, n, to):
    """to[i] = e^(x[i]·factor)"""
    for i in range(0, n, 16):
        store(to + 4 * i, exp(load_first(x + 4 * i, n - i) * splat_f32(factor)))


@inline
def _product(a, b, n, to):
    """to[i] = a[i]·b[i]"""
    for i in range(0, n, 16):
        store(to + 4 * i, load_first(a + 4 * i, n - i) * load_first(b + 4 * i, n - i))


@inline
def _sum_of_products(a, b, c, n):
    """Σ a·b·c"""
    total = splat_f32(0.0)
    for i in range(0, n, 16):
        m = n - i
        total = fma(load_first(a + 4 * i, m) * load_first(b + 4 * i, m), load_first(c + 4 * i, m), total)
    return reduce_add(total)


def _step(kind: str, decay: str) -> Any:
    """step(s, to, n, q, k, v, d, a, b, spare, width) → y: one token, of 16 columns of a head; see `scan`."""
    write, one = _writer(decay), decay == "one"

    @inline
    def linear(s, to, n, q, k, v, d, a, b, spare, width):
        return write(s, to, n, d, k, v, q)

    @inline
    def ssm(s, to, n, q, k, v, d, a, b, spare, width):
        step = get_f32(d)
        _exps(a, step, 1 if one else n, spare)
        return write(s, to, n, spare, k, v * splat_f32(step), q) + splat_f32(get_f32(b)) * v

    @inline
    def ssm_columns(s, to, n, q, k, v, d, a, b, spare, width):
        step = load_first(d, width)
        given, y = step * v, load_first(b, width) * v
        for i in range(n):
            kept = exp(step * load_f32(a + 64 * i)) * load_f32(s + 64 * i)
            x = fma(splat_f32(get_f32(k + 4 * i)), given, kept)
            store(to + 64 * i, x)
            y = fma(splat_f32(get_f32(q + 4 * i)), x, y)
        return y

    @inline
    def delta(s, to, n, q, k, v, d, a, b, spare, width):
        _exps(d, 1.0, 1 if one else n, spare)
        if one:
            known = splat_f32(get_f32(spare)) * _read(k, s, n)
        else:
            _product(spare, k, n, spare + 4 * n + 64)
            known = _read(spare + 4 * n + 64, s, n)
        return write(s, to, n, spare, k, splat_f32(get_f32(a)) * (v - known), q)

    @inline
    def rwkv6(s, to, n, q, k, v, d, a, b, spare, width):
        y = fma(splat_f32(_sum_of_products(q, a, k, n)), v, _read(q, s, n))
        write(s, to, n, d, k, v, q)
        return y

    @inline
    def rwkv7(s, to, n, q, k, v, d, a, b, spare, width):
        known, y = _read(a, s, n), splat_f32(0.0)
        for i in range(n):
            x = fma(splat_f32(get_f32(k + 4 * i)), v, splat_f32(get_f32(d + 4 * i)) * load_f32(s + 64 * i))
            x = fma(splat_f32(get_f32(b + 4 * i)), known, x)
            store(to + 64 * i, x)
            y = fma(splat_f32(get_f32(q + 4 * i)), x, y)
        return y

    steps = linear, ssm, ssm_columns, delta, rwkv6, rwkv7
    return {step.py_func.__name__: step for step in steps}[kind]


def scan(kind: str, decay: str) -> Any:
    """A recurrence of backends/reference/recurrence.py, token by token; decay: "each" row of S has its own, or "one".

    Inputs are f32, *_token numbers from one token to the next (0: weights), *_head from one head to the next; `share`
    heads have one q and k. They are, by kind:

                    q  k  v     d          a           b
        linear      q  k  v     decay
        ssm         C  B  x     step       A           D      (S is the transpose of the reference's)
        delta       q  k  v     log decay  β
        rwkv6       r  k  v     decay      u
        rwkv7       r  k  v     decay      a           b
        ssm_columns C  B  x     step       A           D

    ssm_columns: one head, whose columns each have a step, D, and A for each row: f32[columns / 16][n][16].
    """
    step, by_column = _step(kind, decay), kind == "ssm_columns"

    def body(
        thread: int, n_threads: int, counter: int,
        q: int, q_token: int, k: int, k_token: int, share: int, v: int, d: int, d_token: int, d_head: int,
        a: int, a_token: int, a_head: int, b: int, b_token: int, b_head: int, out: int,
        groups: int, segments: int, state: int, n_heads: int, n: int, width: int, scratch: int, n_groups: Ref,
    ) -> None:  # fmt: skip
        spare = scratch + thread * SCRATCH
        parts = (width + 15) // 16
        n_parts, size = n_heads * parts, 64 * n
        while True:
            task = claim(counter, thread, n_threads, n_groups * n_parts)
            if task >= n_groups * n_parts:
                break
            group, part = groups + task // n_parts * 16, task % n_parts
            head, c = part // parts, part % parts * 16
            at, left = state + part * size, width - c
            d_at, a_at, b_at = d + 4 * head * d_head, a + 4 * head * a_head, b + 4 * head * b_head
            if by_column:
                d_at, a_at, b_at = d + 4 * c, a + 4 * c * n, b + 4 * c
            for i in range(get_i64(group), get_i64(group) + get_i64(group + 8)):
                segment = segments + 32 * i
                first, source, to = get_i64(segment), get_i64(segment + 16) + at, get_i64(segment + 24) + at
                if get_i64(segment + 16) == 0:
                    for row in range(n):
                        store(to + 64 * row, splat_f32(0.0))
                    source = to
                for t in range(first, first + get_i64(segment + 8)):
                    place = 4 * ((t * n_heads + head) * width + c)
                    y = step(
                        source, to, n, q + 4 * (t * q_token + head // share * n),
                        k + 4 * (t * k_token + head // share * n), load_first(v + place, left),
                        d_at + 4 * t * d_token, a_at + 4 * t * a_token, b_at + 4 * t * b_token, spare, left,
                    )  # fmt: skip
                    store_first(out + place, y, left)
                    source = to

    return body

"""Functions of single numbers, and of two: one kernel for all of them, over tokens, heads and columns."""

from __future__ import annotations

from typing import Any

from ..library import Ref
from ..simd import divide, exp, get_f32, inline, load_first, splat_f32, store_first
from .activations import clamp, clamped_silu, gelu, relu, sigmoid, signed_sqrt, silu, softplus, tanh, xielu
from .work_stealing import claim

_PART = 1024  # columns of a head that a thread takes at a time

#: Functions (x, y, p, q, r, s) of a number of each input, and of parameters; most leave some of them alone.
FUNCTIONS: dict[str, Any] = {
    "copy": lambda x, y, p, q, r, s: x,
    "scale": lambda x, y, p, q, r, s: x * p,
    "add": lambda x, y, p, q, r, s: x + p * y,
    "mul": lambda x, y, p, q, r, s: x * y,
    "silu": lambda x, y, p, q, r, s: silu(x),
    "gelu": lambda x, y, p, q, r, s: gelu(x),
    "relu": lambda x, y, p, q, r, s: relu(x),
    "squared_relu": lambda x, y, p, q, r, s: relu(x) * relu(x),
    "sigmoid": lambda x, y, p, q, r, s: sigmoid(x),
    "softplus": lambda x, y, p, q, r, s: softplus(x),
    "tanh": lambda x, y, p, q, r, s: tanh(x),
    "exp": lambda x, y, p, q, r, s: exp(x),
    "reciprocal": lambda x, y, p, q, r, s: divide(splat_f32(1.0), x),
    "signed_sqrt": lambda x, y, p, q, r, s: signed_sqrt(x, p),
    "softcap": lambda x, y, p, q, r, s: p * tanh(divide(x, p)),
    "clamp": lambda x, y, p, q, r, s: clamp(x, p, q),
    "xielu": lambda x, y, p, q, r, s: xielu(x, p, q, r, s),
}
#: Gates: functions of the gate's number and that beside it.
GATES: dict[str, Any] = {
    "silu": lambda x, y, p, q, r, s: silu(x) * y,
    "gelu": lambda x, y, p, q, r, s: gelu(x) * y,
    "relu": lambda x, y, p, q, r, s: relu(x) * y,
    "sigmoid": lambda x, y, p, q, r, s: sigmoid(x) * y,
    "clamped_silu": lambda x, y, p, q, r, s: clamped_silu(x, y, p),
}


def over(function: str, second: str) -> Any:
    """out = function(a, b), rows of f32; a gate's name begins with gate_.

    second: what b has for each head: "row" of numbers, "one" number for all columns, or "none" (there is no b).
    *_token, *_head: numbers from one token, or head, to the next. The head of a that belongs to head h of the result
    is h // a_each % a_heads; that of b is h % b_heads. p, q, r, s: parameters of the function.
    """
    apply = inline(GATES[function.removeprefix("gate_")] if function.startswith("gate_") else FUNCTIONS[function])
    row, one = second == "row", second == "one"

    def body(
        thread: int, n_threads: int, counter: int,
        a: int, a_token: int, a_head: int, a_heads: int, a_each: int, b: int, b_token: int, b_head: int, b_heads: int,
        out: int, out_token: int, out_head: int, n_heads: int, n_columns: int,
        p: float, q: float, r: float, s: float, n_tokens: Ref,
    ) -> None:  # fmt: skip
        parts = (n_columns + _PART - 1) // _PART
        n_items = n_tokens * n_heads * parts
        p_all, q_all, r_all, s_all = splat_f32(p), splat_f32(q), splat_f32(r), splat_f32(s)
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            row_number, first = item // parts, item % parts * _PART
            t, h = row_number // n_heads, row_number % n_heads
            x = a + 4 * (t * a_token + h // a_each % a_heads * a_head)
            y = b + 4 * (t * b_token + h % b_heads * b_head)
            to = out + 4 * (t * out_token + h * out_head)
            other = splat_f32(0.0)
            if one:
                other = splat_f32(get_f32(y))
            for c in range(first, min(first + _PART, n_columns), 16):
                n = n_columns - c
                if row:
                    other = load_first(y + 4 * c, n)
                store_first(to + 4 * c, apply(load_first(x + 4 * c, n), other, p_all, q_all, r_all, s_all), n)

    return body

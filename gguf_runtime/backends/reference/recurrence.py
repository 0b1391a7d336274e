"""The meaning of operations that keep a state of each sequence, which every token changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...operations import Conv, EmbedNgrams, Recurrence, Shift
from ..ngrams import ngram_rows
from .operations import Run


def conv(run: Run, op: Conv) -> np.ndarray:
    """f64[tokens, heads, width]."""
    weight, x = run.weights(op.weight), run[op.x].reshape(len(run.ids), -1)  # (columns, taps)
    taps, made = weight.shape[1], np.empty_like(x)
    for segment, rows in run.segments():
        seen, n = np.concatenate([run.memory.state(op, segment), x[rows]]), segment.n_tokens
        made[rows] = sum(seen[tap * op.dilation :][:n] * weight[:, tap] for tap in range(taps))
        run.memory.keep(op, segment, seen[n:])
    return made + run.weights(op.bias).reshape(-1) if op.bias else made


def embed_ngrams(run: Run, op: EmbedNgrams) -> np.ndarray:
    """f64[tokens, heads, width]."""
    n = len(op.multipliers)
    made = np.empty((len(run.ids), *op.shape))
    for segment, rows in run.segments():
        before = run.memory.state(op, segment, op.end)
        tokens = np.concatenate([before, run.ids[rows]]).astype(np.int64).tolist()
        numbers = [ngram_rows(op, tokens[at : at + n][::-1]) for at in range(segment.n_tokens)]
        made[rows] = run.weights.rows(op.table, np.array(numbers).reshape(-1)).reshape(segment.n_tokens, *op.shape)
        run.memory.keep(op, segment, np.array(tokens[1 - n :]))
    return made


def shift(run: Run, op: Shift) -> np.ndarray:
    """f64[tokens, heads, width]."""
    x = run[op.x]
    made = np.empty_like(x)
    for segment, rows in run.segments():
        made[rows] = np.concatenate([run.memory.state(op, segment), x[rows][:-1]])
        run.memory.keep(op, segment, x[rows][-1:])
    return made


def _ssm(state: np.ndarray, inputs: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Selective state space (Mamba, Gu & Dao 2023; Mamba-2, Dao & Gu 2024): h = exp(dt·A)·h + dt·x⊗B, y = h·C + D·x.

    inputs: x (heads, width), steps dt (heads, 1), B and C (groups of neighbouring heads, n). weights: A (heads, n), or
    (heads, 1) for one number a head, and D (heads, 1). state: (heads, width, n). In Mamba every column is a head.
    """
    x, dt, b, c = inputs
    a, d = weights
    b, c = (np.repeat(part, len(x) // len(part), axis=0)[:, None] for part in (b, c))
    state = np.exp(dt * a)[:, None] * state + (dt * x)[..., None] * b
    return state, (state * c).sum(axis=-1) + d * x


def _delta(state: np.ndarray, inputs: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Gated delta rule (Yang et al. 2024; by channel: Kimi Linear 2025): S = e^g·S, S += k⊗β(v − Sᵀk), y = Sᵀq.

    inputs: q, k (heads, n), v (heads, width), g (heads, n), or (heads, 1) for one number a head, β (heads, 1).
    state: (heads, n, width).
    """
    q, k, v, g, beta = inputs
    state = np.exp(g)[..., None] * state
    state = state + k[..., None] * (beta * (v - _read(state, k)))[:, None]
    return state, _read(state, q)


def _linear(state: np.ndarray, inputs: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Linear attention that forgets (GLA, Yang et al. 2023; Lightning, Qin et al. 2024): S = d·S + k⊗v, y = Sᵀq.

    inputs: q, k (heads, n), v (heads, width); d (heads, n) follows them, or is the only weight, (heads, 1).
    state: (heads, n, width).
    """
    q, k, v, decay = [*inputs, *weights]
    state = decay[..., None] * state + k[..., None] * v[:, None]
    return state, _read(state, q)


def _rwkv6(state: np.ndarray, inputs: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """RWKV 6 (Peng et al. 2024): y = (S + (u·k)⊗v)ᵀr, then S = d·S + k⊗v: a token's own part is weighted by u.

    inputs: r, k (heads, n), v (heads, width), d (heads, n). weights: u (heads, n). state: (heads, n, width).
    """
    r, k, v, decay = inputs
    new = k[..., None] * v[:, None]
    return decay[..., None] * state + new, _read(state + weights[0][..., None] * new, r)


def _rwkv7(state: np.ndarray, inputs: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """RWKV 7's generalised delta rule (Peng et al. 2025): S = d·S + b⊗(Sᵀa) + k⊗v, y = Sᵀr.

    inputs: r, k (heads, n), v (heads, width), d, a, b (heads, n). state: (heads, n, width).
    """
    r, k, v, decay, a, b = inputs
    state = decay[..., None] * state + b[..., None] * _read(state, a)[:, None] + k[..., None] * v[:, None]
    return state, _read(state, r)


def _read(state: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Sᵀk of each head: f64[heads, width]."""
    return np.einsum("hnw,hn->hw", state, key)


#: The kinds of Recurrence: (state, inputs of one token, weights) → (state, f64[heads, width]).
KINDS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "ssm": _ssm,
    "delta": _delta,
    "linear": _linear,
    "rwkv6": _rwkv6,
    "rwkv7": _rwkv7,
}


def recurrence(run: Run, op: Recurrence) -> np.ndarray:
    """f64[tokens, heads, width], token by token."""
    inputs, weights = [run[value] for value in op.inputs], [run.weights(tensor) for tensor in op.weights]
    made = np.empty((len(run.ids), op.heads, op.width))
    for segment, rows in run.segments():
        state = run.memory.state(op, segment)
        for token in range(rows.start, rows.stop):
            state, made[token] = KINDS[op.kind](state, [x[token] for x in inputs], weights)
        run.memory.keep(op, segment, state)
    return made

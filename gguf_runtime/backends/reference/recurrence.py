"""The meaning of operations that keep a state of each sequence, which every token changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...operations import Conv, EmbedNgrams, Recurrence, Shift
from .operations import Run


def conv(run: Run, op: Conv) -> np.ndarray:
    """f64[tokens, heads, width]."""
    weight, x = run.weights(op.weight), run[op.x].reshape(len(run.ids), -1)  # (columns, taps)
    taps, made = weight.shape[1], np.empty_like(x)
    n_before = (taps - 1) * op.dilation
    for chunk, rows in run.sequences():
        before = run.memory.state(chunk.sequence, op.slot, chunk.position, np.zeros((n_before, x.shape[1])))
        seen, n = np.concatenate([before, x[rows]]), len(chunk.tokens)
        made[rows] = sum(seen[tap * op.dilation :][:n] * weight[:, tap] for tap in range(taps))
        run.memory.keep(chunk.sequence, op.slot, chunk.position + n, seen[n:])
    return made + run.weights(op.bias).reshape(-1) if op.bias else made


def embed_ngrams(run: Run, op: EmbedNgrams) -> np.ndarray:
    """f64[tokens, heads, width]."""
    n = len(op.multipliers)
    made = np.empty((len(run.ids), *op.shape))
    for chunk, rows in run.sequences():
        before = run.memory.state(chunk.sequence, op.slot, chunk.position, np.full(n - 1, op.end))
        tokens = np.concatenate([before, chunk.tokens]).astype(np.int64).tolist()
        numbers = [_ngram_rows(op, tokens[at : at + n][::-1]) for at in range(len(chunk.tokens))]
        made[rows] = run.weights.rows(op.table, np.array(numbers).reshape(-1)).reshape(len(chunk.tokens), *op.shape)
        run.memory.keep(chunk.sequence, op.slot, chunk.position + len(chunk.tokens), np.array(tokens[1 - n :]))
    return made


def _ngram_rows(op: EmbedNgrams, tokens: list[int]) -> list[int]:
    """The row of each head, from a token and those before it, the last first."""
    ended = tokens.index(op.end, 1) if op.end in tokens[1:] else len(tokens)
    tokens = tokens[:ended] + [op.end] * (len(tokens) - ended)
    per_n, mixed = len(op.sizes) // (len(tokens) - 1), tokens[0] * op.multipliers[0]
    rows: list[int] = []
    for token, multiplier in zip(tokens[1:], op.multipliers[1:], strict=True):
        mixed = (mixed ^ token * multiplier) & (1 << 64) - 1
        heads = range(len(rows), len(rows) + per_n)
        rows += [mixed % op.sizes[head] + op.offsets[head] for head in heads]
    return rows


def shift(run: Run, op: Shift) -> np.ndarray:
    """f64[tokens, heads, width]."""
    x = run[op.x]
    made = np.empty_like(x)
    for chunk, rows in run.sequences():
        before = run.memory.state(chunk.sequence, op.slot, chunk.position, np.zeros_like(x[:1]))
        made[rows] = np.concatenate([before, x[rows][:-1]])
        run.memory.keep(chunk.sequence, op.slot, chunk.position + len(chunk.tokens), x[rows][-1:])
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


def state_shape(op: Recurrence) -> tuple[int, int, int]:
    """The shape of a sequence's state."""
    if op.kind == "ssm":
        return op.heads, op.width, op.inputs[2].width
    return op.heads, op.inputs[1].width, op.width


def recurrence(run: Run, op: Recurrence) -> np.ndarray:
    """f64[tokens, heads, width], token by token."""
    inputs, weights = [run[value] for value in op.inputs], [run.weights(tensor) for tensor in op.weights]
    made = np.empty((len(run.ids), op.heads, op.width))
    for chunk, rows in run.sequences():
        state = run.memory.state(chunk.sequence, op.slot, chunk.position, np.zeros(state_shape(op)))
        for token in range(rows.start, rows.stop):
            state, made[token] = KINDS[op.kind](state, [x[token] for x in inputs], weights)
        run.memory.keep(chunk.sequence, op.slot, chunk.position + len(chunk.tokens), state)
    return made

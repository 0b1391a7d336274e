"""The meaning of operations that keep a state of each sequence, which every token changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...operations import Conv, Recurrence, Shift
from .operations import Run


def conv(run: Run, op: Conv) -> np.ndarray:
    """f64[tokens, heads, width]."""
    weight, x = run.weights(op.weight), run[op.x].reshape(len(run.ids), -1)  # (columns, taps)
    taps, made = weight.shape[1], np.empty_like(x)
    for part, rows in run.sequences():
        before = run.memory.state(part.sequence, op.slot, part.position, np.zeros((taps - 1, x.shape[1])))
        seen = np.concatenate([before, x[rows]])
        made[rows] = sum(seen[tap : tap + len(part.tokens)] * weight[:, tap] for tap in range(taps))
        run.memory.keep(part.sequence, op.slot, part.position + len(part.tokens), seen[len(seen) - taps + 1 :])
    return made + run.weights(op.bias).reshape(-1) if op.bias else made


def shift(run: Run, op: Shift) -> np.ndarray:
    """f64[tokens, heads, width]."""
    x = run[op.x]
    made = np.empty_like(x)
    for part, rows in run.sequences():
        before = run.memory.state(part.sequence, op.slot, part.position, np.zeros_like(x[:1]))
        made[rows] = np.concatenate([before, x[rows][:-1]])
        run.memory.keep(part.sequence, op.slot, part.position + len(part.tokens), x[rows][-1:])
    return made


#: The kinds of Recurrence: (state, inputs of one token, weights) → (state, f64[heads, width]).
KINDS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {}
#: The shape of a kind's state.
STATES: dict[str, Callable[[Run, Recurrence], tuple[int, ...]]] = {}


def recurrence(run: Run, op: Recurrence) -> np.ndarray:
    """f64[tokens, heads, width], token by token."""
    inputs, weights = [run[value] for value in op.inputs], [run.weights(tensor) for tensor in op.weights]
    made = np.empty((len(run.ids), op.heads, op.width))
    for part, rows in run.sequences():
        state = run.memory.state(part.sequence, op.slot, part.position, np.zeros(STATES[op.kind](run, op)))
        for token in range(rows.start, rows.stop):
            state, made[token] = KINDS[op.kind](state, [x[token] for x in inputs], weights)
        run.memory.keep(part.sequence, op.slot, part.position + len(part.tokens), state)
    return made

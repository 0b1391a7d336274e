"""The meaning of each operation but those that look at other tokens: a function of the run, in a table.

Values are f64[rows, heads, width].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...operations import (
    Activate,
    Add,
    Combine,
    Concat,
    Embed,
    ExpertLinear,
    ExpertScale,
    Gate,
    HeadLinear,
    Input,
    Linear,
    Mul,
    Norm,
    Pool,
    Repeat,
    Rope,
    Route,
    Scale,
    ScaleByPosition,
    SelectRows,
    Slice,
    Value,
    View,
)
from .. import Batch, Chunk
from ..states import Segment, segments
from .memory import Memory
from .weights import Weights


class Run:
    """One batch: its chunks, and what was made of it so far."""

    def __init__(self, batch: Batch, memory: Memory, weights: Weights) -> None:
        self.chunks, self.memory, self.weights = batch.chunks, memory, weights
        self.ids = np.concatenate([chunk.tokens for chunk in self.chunks])
        self.positions = np.concatenate([np.arange(c.position, c.position + len(c.tokens)) for c in self.chunks])
        self.values: dict[int, np.ndarray] = {}

    def __getitem__(self, value: Value) -> np.ndarray:
        return self.values[value.number]

    def sequences(self) -> Iterator[tuple[Chunk, slice]]:
        """Each chunk with the rows that are its tokens."""
        first = 0
        for chunk in self.chunks:
            yield chunk, slice(first, first := first + len(chunk.tokens))

    def segments(self) -> Iterator[tuple[Segment, slice]]:
        """Each run of tokens after which a state is kept, with its rows."""
        for chunk, rows in self.sequences():
            for segment in segments(chunk.sequence.marks, rows.start, len(chunk.tokens), chunk.position):
                yield segment, slice(segment.first, segment.first + segment.n_tokens)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    grown = np.exp(x - x.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def _gelu(x: np.ndarray) -> np.ndarray:
    """The form with tanh (Hendrycks & Gimpel 2016)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _xielu(x: np.ndarray, alpha_n: float, alpha_p: float, beta: float, eps: float) -> np.ndarray:
    """Huang & Schlag 2024."""
    return np.where(x > 0, alpha_p * x * x + beta * x, alpha_n * (np.expm1(np.minimum(x, eps)) - x) + beta * x)


def _sparse(x: np.ndarray, deviations: float) -> np.ndarray:
    """What exceeds mean + deviations·standard deviation of its row (with n − 1), else 0."""
    floor = x.mean(axis=-1, keepdims=True) + deviations * x.std(axis=-1, keepdims=True, ddof=1)
    return np.maximum(x - floor, 0)


def _sinkhorn(x: np.ndarray, iterations: float, eps: float) -> np.ndarray:
    """A matrix of heads × columns made nearly doubly stochastic (Sinkhorn & Knopp 1967), transposed."""
    x = softmax(x) + eps
    x = x / (x.sum(axis=-2, keepdims=True) + eps)
    for _ in range(int(iterations) - 1):
        x = x / (x.sum(axis=-1, keepdims=True) + eps)
        x = x / (x.sum(axis=-2, keepdims=True) + eps)
    return x.swapaxes(-1, -2)


#: Activate's kinds, and their parameters.
ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "silu": lambda x: x * sigmoid(x),
    "gelu": _gelu,
    "relu": lambda x: np.maximum(x, 0),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "tanh": np.tanh,
    "exp": np.exp,
    "reciprocal": lambda x: 1 / x,
    "softcap": lambda x, c: c * np.tanh(x / c),
    "signed_sqrt": lambda x, least: np.sign(x) * np.sqrt(np.maximum(np.abs(x), least)),
    "clamp": lambda x, low, high: np.clip(x, low, high),
    "xielu": _xielu,
    "sparse": _sparse,
    "softmax": softmax,
    "sinkhorn": _sinkhorn,
}


def _embed(run: Run, op: Embed) -> np.ndarray:
    cycle = run.positions % op.table.shape[0]
    numbers = {"token": run.ids, "position": run.positions, "cycle": cycle}[op.by]
    return run.weights.rows(op.table, numbers) * op.scale


def _select(run: Run, op: SelectRows) -> np.ndarray:
    x = run[op.x]
    return np.concatenate([x[rows][len(chunk.tokens) - chunk.n_logits :] for chunk, rows in run.sequences()])


def _pool(run: Run, op: Pool) -> np.ndarray:
    how = {"mean": lambda x: x.mean(axis=0), "first": lambda x: x[0], "last": lambda x: x[-1]}[op.kind]
    return np.stack([how(run[op.x][rows]) for _, rows in run.sequences()])


def _concat(run: Run, op: Concat) -> np.ndarray:
    a, b = run[op.a], run[op.b]
    return np.concatenate([a, np.broadcast_to(b, (*a.shape[:2], b.shape[2]))], axis=2)


def _repeat(run: Run, op: Repeat) -> np.ndarray:
    return np.tile(run[op.x], (1, op.times, 1)) if op.tiled else np.repeat(run[op.x], op.times, axis=1)


def _of_heads(vector: np.ndarray, value: Value) -> np.ndarray:
    """Weights for the columns of a head, of all heads, one for each head, or one for all."""
    if vector.shape == (value.heads, 1):
        return vector
    return vector.reshape(value.heads, value.width) if vector.size == value.size else vector.reshape(-1)


def _norm(run: Run, op: Norm) -> np.ndarray:
    x = run[op.x]
    if op.kind == "l2":
        y = x / np.maximum(np.sqrt((x * x).sum(axis=-1, keepdims=True)), op.eps)
    else:
        centred = x - x.mean(axis=-1, keepdims=True) if op.kind == "layer" else x
        y = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + op.eps)
    if op.weight:
        y = y * _of_heads(run.weights(op.weight), op.out)
    return y + _of_heads(run.weights(op.bias), op.out) if op.bias else y


def _linear(run: Run, op: Linear) -> np.ndarray:
    x = run[op.x]
    y = x.reshape(-1, op.x.size) @ run.weights(op.weight).T
    return y + run.weights(op.bias).reshape(-1) if op.bias else y


def _head_linear(run: Run, op: HeadLinear) -> np.ndarray:
    return np.einsum("thc,hrc->thr", run[op.x], run.weights(op.weight))


def _gate(run: Run, op: Gate) -> np.ndarray:
    gate, up = run[op.gate], run[op.up]
    if op.kind == "clamped_silu":  # gpt-oss
        gate, up = np.minimum(gate, op.limit), np.clip(up, -op.limit, op.limit)
        return gate * sigmoid(1.702 * gate) * (up + 1)
    return ACTIVATIONS[op.kind](gate) * up


def _scale(run: Run, op: Scale) -> np.ndarray:
    y = run[op.x] * op.factor
    if op.weight:
        y = y * _of_heads(run.weights(op.weight), op.out)
    return y + _of_heads(run.weights(op.bias), op.out) if op.bias else y


def _scale_by_position(run: Run, op: ScaleByPosition) -> np.ndarray:
    return run[op.x] * (1 + op.rate * np.log1p((run.positions + op.offset) // op.length))[:, None, None]


def _rope(run: Run, op: Rope) -> np.ndarray:
    frequencies, half = op.frequencies, len(op.frequencies.frequencies)
    x = run[op.x].copy()
    turn = frequencies.magnitude * np.exp(1j * (run.positions - op.delay)[:, None, None] * frequencies.frequencies)
    part = x[..., op.offset : op.offset + 2 * half]
    if frequencies.layout == "pairs":
        turned = (part[..., 0::2] + 1j * part[..., 1::2]) * turn
        part[..., 0::2], part[..., 1::2] = turned.real, turned.imag
    else:
        turned = (part[..., :half] + 1j * part[..., half:]) * turn
        part[..., :half], part[..., half:] = turned.real, turned.imag
    return x


def _route(run: Run, op: Route) -> np.ndarray:
    logits = run[op.logits].reshape(-1, op.logits.size)
    gates = {
        "softmax": softmax,
        "sigmoid": sigmoid,
        "sqrt_softplus": lambda x: np.sqrt(softplus(x)),
        "softmax_used": lambda x: x,
        "none": lambda x: x,
    }
    weights = gates[op.gating](logits)
    score = logits if op.by_logits else weights
    if op.selection:
        score = score + run.weights(op.selection).reshape(-1)
    if op.groups > 1:
        grouped = score.reshape(len(score), op.groups, score.shape[1] // op.groups)
        best = np.argsort(-np.sort(grouped, axis=2)[..., -2:].sum(axis=2), axis=1, kind="stable")
        allowed = np.zeros(grouped.shape, bool)
        np.put_along_axis(allowed, best[:, : op.groups_used, None], True, axis=1)
        score = np.where(allowed.reshape(score.shape), score, -np.inf)
    used = np.argsort(-score, axis=1, kind="stable")[:, : op.n_used] // op.share
    if op.experts:
        used = run.weights.rows(op.experts, run.ids).astype(np.int64)
    weights = np.take_along_axis(weights, used, axis=1)
    if op.gating == "softmax_used":
        weights = softmax(weights)
    if op.normalise:
        weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 2.0**-14)
    weights = weights * op.scale
    if op.expert_scale:
        weights = weights * run.weights(op.expert_scale).reshape(-1)[used]
    return np.stack([used, weights], axis=-1)


def _expert_linear(run: Run, op: ExpertLinear) -> np.ndarray:
    x, used = run[op.x], run[op.route][..., 0].astype(np.int64)
    x = np.broadcast_to(x, (len(x), op.out.heads, x.shape[2]))
    weight = run.weights(op.weight)
    y = np.einsum("thc,thrc->thr", x, weight[used])
    return y + run.weights(op.bias)[used] if op.bias else y


def _expert_scale(run: Run, op: ExpertScale) -> np.ndarray:
    return run[op.x] * run.weights(op.weight).reshape(-1)[run[op.route][..., :1].astype(np.int64)]


def _combine(run: Run, op: Combine) -> np.ndarray:
    x = run[op.x]
    if op.weights is None:
        return x.sum(axis=1)
    weights = run[op.weights]
    if op.out.heads == 1 and op.weights.heads == op.x.heads:
        return np.einsum("th,thw->tw", weights[..., -1], x)
    return np.einsum("tih,thw->tiw", weights, x)


#: What each operation means; `attention` and `recurrence` add theirs. Input is the backend's.
MEANING: dict[type[Any], Callable[[Run, Any], np.ndarray]] = {
    Input: lambda run, op: run[op.x],
    Embed: _embed,
    SelectRows: _select,
    Pool: _pool,
    View: lambda run, op: run[op.x],
    Slice: lambda run, op: run[op.x][..., op.start : op.stop],
    Concat: _concat,
    Repeat: _repeat,
    Norm: _norm,
    Linear: _linear,
    HeadLinear: _head_linear,
    Activate: lambda run, op: ACTIVATIONS[op.kind](run[op.x], *op.parameters),
    Gate: _gate,
    Add: lambda run, op: run[op.a] + op.scale * run[op.b],
    Mul: lambda run, op: run[op.a] * run[op.b],
    Scale: _scale,
    ScaleByPosition: _scale_by_position,
    Rope: _rope,
    Route: _route,
    ExpertLinear: _expert_linear,
    ExpertScale: _expert_scale,
    Combine: _combine,
}

"""Experts: which ones take each token, and their products; and heads that each have a matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ...loader import Tensor
from ...operations import Combine, ExpertLinear, HeadLinear, Route
from .sizes import tiles_of
from .weights import expert_rows
from .workspace import expert_groups
from .writer import Writer, unknown

_ROWS, _MOST_EXPERTS, _SPLITS = 64, 1024, 2  # as in matmul.cuh and experts.cu
_GATINGS = {"softmax": 0, "sigmoid": 1, "sqrt_softplus": 2, "none": 3, "softmax_used": 4}  # Gating in experts.cu


def _route(w: Writer, op: Route) -> None:
    n_experts = op.logits.size
    if op.gating not in _GATINGS or n_experts > _MOST_EXPERTS or (op.experts and op.experts.type != "I32"):
        raise unknown(op, f" of {n_experts} experts")
    logits, out = w.floats(op.logits), w.floats(op.out)
    selection, scale = (w.plan.floats(tensor) if tensor else 0 for tensor in (op.selection, op.expert_scale))
    numbers = w.plan.vector(op.experts.name, partial(_numbers, op.experts)) if op.experts else 0
    w.launch(
        "route", (w.n(op.out),), 32, logits.at, logits.stride, n_experts, op.n_used, _GATINGS[op.gating], selection,
        op.groups, op.groups_used, int(op.normalise), np.float32(op.scale), scale, int(op.by_logits), op.share, numbers,
        w.inputs.ids, out.at, out.stride, w.count(op.out),
    )  # fmt: skip


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.data.view(np.int32)


def _expert_linear(w: Writer, op: ExpertLinear) -> None:
    n_experts, n_used, route = op.weight.shape[0], op.route.heads, w.floats(op.route)
    if n_experts > _MOST_EXPERTS:
        raise unknown(op, f" of {n_experts} experts")
    bias = w.plan.floats(op.bias) if op.bias else 0
    if w.one:
        _products(w, op, n_used, route.at, 0, n_used, bias)
        return
    n_pairs, most = w.n(op.out) * n_used, 8 * _times(w.n(op.out))
    n_groups = expert_groups(n_experts, n_pairs, most)
    if w.grouped != op.route.number:
        w.grouped = op.route.number
        w.launch(
            "group_pairs", (1,), _MOST_EXPERTS, route.at, route.stride, n_used, n_experts, most, w.scratch("pairs"),
            w.scratch("groups"), n_groups, w.count(op.out),
        )  # fmt: skip
    _products(w, op, n_groups, 0, w.scratch("groups"), n_used, bias)


def _head_linear(w: Writer, op: HeadLinear) -> None:
    n_heads = op.weight.shape[0]
    _products(w, op, n_heads * tiles_of(w.n(op.out), 8 * _times(w.n(op.out))), 0, 0, n_heads, 0)


def _products(
    w: Writer, op: ExpertLinear | HeadLinear, n_groups: int, route: int, groups: int, n_used: int, bias: int
) -> None:
    matrix, n, out = w.plan.matrix([op.weight]), w.n(op.out), w.floats(op.out)
    x, times = w.halves(op.x, matrix.format.step, each=True), _times(n)
    shared = _SPLITS * max(2 * 8 * times * 2 * 256, 8 * times * (_ROWS + 1) * 4)  # two chunks of halves; sums
    n_rows = op.weight.shape[1]
    w.launch(
        f"expert_matmul<{matrix.type}, {times}, {_SPLITS}>", (tiles_of(n_rows, _ROWS), n_groups), 128 * _SPLITS,
        matrix.memory.address, matrix.n_rows, expert_rows(op.weight), n_rows, matrix.n_columns, x.at, x.stride,
        op.x.heads, route, groups, w.scratch("pairs") if groups else 0, n_used, out.at, out.stride, bias,
        w.count(op.out), shared=shared,
    )  # fmt: skip


def _times(n: int) -> int:
    """Tokens are taken eight at a time, up to four times."""
    return 1 if n <= 8 else 2 if n <= 16 else 4


def _combine(w: Writer, op: Combine) -> None:
    x, out, weights, how = w.floats(op.x), w.floats(op.out), op.weights, (0, 0, 0, 0)
    if weights:
        rows = w.floats(weights)
        of_route = op.out.heads == 1 and weights.heads == op.x.heads
        last = 4 * (weights.width - 1)
        how = (rows.at + last, rows.stride, 0, weights.width) if of_route else (rows.at, rows.stride, weights.width, 1)
    w.launch(
        "combine", (tiles_of(op.out.size, 256), w.n(op.out)), 256, x.at, x.stride, *how, out.at, out.stride,
        op.out.heads, op.x.heads, op.x.width, w.count(op.out),
    )  # fmt: skip


LAUNCHES: dict[type[Any], Callable[[Writer, Any], None]] = {
    Route: _route,
    ExpertLinear: _expert_linear,
    HeadLinear: _head_linear,
    Combine: _combine,
}

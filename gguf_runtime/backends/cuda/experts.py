"""Experts: which ones take each token, and their products; and heads that each have a matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...fusion import GatedExperts
from ...loader import Tensor
from ...operations import Combine, ExpertLinear, HeadLinear, Route
from .places import GATES, MOST_EXPERTS
from .sizes import tiles_of
from .weights import expert_rows
from .workspace import expert_groups
from .writer import CudaWriter, unknown

_ROWS, _SPLITS = 64, 2  # as in matmul.cuh; fours of warps that share the columns
_GATINGS = {"softmax": 0, "sigmoid": 1, "sqrt_softplus": 2, "none": 3, "softmax_used": 4}  # Gating in experts.cu


def _route(w: CudaWriter, op: Route) -> None:
    n_experts = op.logits.size
    if op.gating not in _GATINGS or n_experts > MOST_EXPERTS or (op.experts and op.experts.type != "I32"):
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


def _expert_linear(w: CudaWriter, op: ExpertLinear) -> None:
    if op.weight.shape[0] > MOST_EXPERTS:
        raise unknown(op, f" of {op.weight.shape[0]} experts")
    _products(w, op, _groups(w, op), w.plan.floats(op.bias) if op.bias else 0)


def _head_linear(w: CudaWriter, op: HeadLinear) -> None:
    n, n_heads = w.n(op.out), op.weight.shape[0]
    _products(w, op, _Groups(n_heads * tiles_of(n, 8 * _times(n)), 0, 0, 0, n_heads), 0)


class _Groups(NamedTuple):
    """Which pairs of a token and a matrix are multiplied together: what kernels are told of it, 0 for null."""

    n: int
    route: int
    groups: int
    pairs: int
    n_used: int


def _groups(w: CudaWriter, op: ExpertLinear) -> _Groups:
    n_experts, n_used, n, route = op.weight.shape[0], op.route.heads, w.n(op.out), w.floats(op.route)
    if w.one:
        return _Groups(n_used, route.at, 0, 0, n_used)
    most, groups, pairs = 8 * _times(n), w.scratch("groups"), w.scratch("pairs")
    n_groups = expert_groups(n_experts, n * n_used, most)
    if w.grouped != op.route.number:
        w.grouped = op.route.number
        w.launch(
            "group_pairs", (1,), MOST_EXPERTS, route.at, route.stride, n_used, n_experts, most, pairs, groups, n_groups,
            w.count(op.out),
        )  # fmt: skip
    return _Groups(n_groups, 0, groups, pairs, n_used)


def _products(w: CudaWriter, op: ExpertLinear | HeadLinear, groups: _Groups, bias: int) -> None:
    matrix, out, times, n_rows = w.plan.matrix([op.weight]), w.floats(op.out), _times(w.n(op.out)), op.weight.shape[1]
    x = w.halves(op.x, matrix.format.step, each=True)
    w.launch(
        f"expert_matmul<{matrix.type}, {times}, {_SPLITS}>", (tiles_of(n_rows, _ROWS), groups.n), 128 * _SPLITS,
        matrix.memory.address, matrix.n_rows, expert_rows(op.weight), n_rows, matrix.n_columns, x.at, x.stride,
        op.x.heads, *groups[1:], out.at, out.stride, bias, w.count(op.out), shared=_shared(times),
    )  # fmt: skip


def _gated(w: CudaWriter, item: GatedExperts) -> None:
    gate, up = (w.plan.matrix([op.weight]) for op in (item.gate, item.up))
    out, (heads, _), times = w.rows(item.op.out), item.op.shape, _times(w.n(item.op.out))
    n_rows = item.gate.weight.shape[1]
    groups, x = _groups(w, item.gate), w.halves(item.gate.x, gate.format.step, each=True)
    biases = (w.plan.floats(op.bias) if op.bias else 0 for op in (item.gate, item.up))
    w.launch(
        f"expert_gate<{gate.type}, {up.type}, {times}, {GATES[item.op.kind]}>", (tiles_of(n_rows, _ROWS), groups.n),
        256, gate.memory.address, up.memory.address, gate.n_rows, expert_rows(item.gate.weight), n_rows, gate.n_columns,
        x.at, x.stride, item.gate.x.heads, *groups[1:], out.at, out.stride // heads, *biases,
        np.float32(item.op.limit), w.count(item.op.out), shared=_shared(times),
    )  # fmt: skip


def _shared(times: int) -> int:
    """Bytes of shared memory: for two parts of the warps each two chunks of halves, and then sums."""
    return 2 * max(2 * 8 * times * 2 * 256, 8 * times * (_ROWS + 1) * 4)


def _times(n: int) -> int:
    """Tokens are taken eight at a time, up to four times."""
    return 1 if n <= 8 else 2 if n <= 16 else 4


def _combine(w: CudaWriter, op: Combine) -> None:
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


LAUNCHES: dict[type[Any], Callable[[CudaWriter, Any], None]] = {
    Route: _route,
    ExpertLinear: _expert_linear,
    GatedExperts: _gated,
    HeadLinear: _head_linear,
    Combine: _combine,
}

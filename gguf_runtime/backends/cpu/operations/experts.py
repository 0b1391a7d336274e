"""Experts: which a token takes, their products, and sums of what they made; and matrices that heads have of their own.

Pairs of tokens and experts are put in the experts' order once for each route (kernels/cpu/routing.py); every product of
these experts goes by that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ....fusion import GatedExperts
from ....kernels.layout import MOST_EXPERTS
from ....loader import Tensor
from ....operations import Combine, ExpertLinear, ExpertScale, HeadLinear, Route, Value
from ...errors import PlanError
from .. import forms
from ..buffers import MANY, ROWWISE, ROWWISE_PAIRS, BufferKind, Groups, Order
from ..writer import CpuWriter, unknown
from .products import check_format, how_to_multiply, row_bytes

_ANY_NUMBER = 1 << 30
_GATINGS = {"softmax", "sigmoid", "softmax_used", "sqrt_softplus", "none"}


class _Pairs(NamedTuple):
    """Tokens with their experts. route: what tells them, None where each token has all."""

    n_used: int
    n_experts: int
    route: Value | None


def _route(w: CpuWriter, op: Route) -> None:
    n = op.logits.size
    if op.gating not in _GATINGS:
        raise unknown(op)
    if not op.n_used <= n <= MOST_EXPERTS:
        raise PlanError(f"{op.n_used} of {n} experts: there may be {MOST_EXPERTS}")
    x, out, experts = w.plan.buffer(op.logits), w.plan.buffer(op.out), 0
    if op.experts:
        if op.out.rows != "token":
            raise unknown(op, ", by token, of a few tokens only,")
        experts = _checked_table(op.experts, n)
    w.step(
        f"routing.route:{op.gating}", op.out, [x], [out], logits=x, n_experts=n, n_used=op.n_used,
        selection=_vector(w, op.selection), by_logits=int(op.by_logits), groups=op.groups, groups_used=op.groups_used,
        share=op.share, experts=experts, ids=w.inputs.ids, normalise=int(op.normalise), scale=float(op.scale),
        expert_scale=_vector(w, op.expert_scale), out=out, scratch=w.inputs.scratch, n_tokens=w.count(op.out),
    )  # fmt: skip


def _checked_table(table: Tensor, n_experts: int) -> Any:
    """Numbers of experts by token, i32. Raises PlanError."""
    if table.type != "I32":
        raise PlanError(f"tensor {table.name} has type {table.type}; it must be I32")
    numbers = table.data.view(np.int32)
    if numbers.min() < 0 or numbers.max() >= n_experts:
        raise PlanError(f"tensor {table.name} names experts that are not there: there are {n_experts}")
    return numbers


def _vector(w: CpuWriter, tensor: Tensor | None) -> Any:
    return w.plan.floats(tensor) if tensor else 0


def _expert_linear(w: CpuWriter, op: ExpertLinear) -> None:
    _write_linear(w, op, _pairs(w, op.route), op.bias)


def _head_linear(w: CpuWriter, op: HeadLinear) -> None:
    n = op.weight.shape[0]
    _write_linear(w, op, _Pairs(n, n, None), None)


def _pairs(w: CpuWriter, route: Value) -> _Pairs:
    return _Pairs(route.heads, w.plan.n_experts(route), route)


def _write_linear(w: CpuWriter, op: ExpertLinear | HeadLinear, pairs: _Pairs, bias: Tensor | None) -> None:
    out, vector = w.plan.buffer(op.out), _vector(w, bias)
    arguments = {"experts": op.weight.data, "expert_bytes": _matrix_bytes(op.weight), "bias": vector, "out": out}
    _product(w, "linear", "", pairs, op.x, op.weight, op.out, arguments)


def _gated(w: CpuWriter, item: GatedExperts) -> None:
    gate, up, op, _ = item
    arguments = {
        "gates": gate.weight.data, "expert_bytes": _matrix_bytes(gate.weight), "gate_bias": _vector(w, gate.bias),
        "ups": up.weight.data, "up_bytes": _matrix_bytes(up.weight), "up_bias": _vector(w, up.bias),
        "p": float(op.limit), "out": w.plan.buffer(op.out),
    }  # fmt: skip
    _product(w, "glu", f":{{}}:{op.kind}", _pairs(w, gate.route), gate.x, gate.weight, op.out, arguments)


def _product(
    w: CpuWriter, name: str, kind: str, pairs: _Pairs, x: Value, weight: Tensor, out: Value, arguments: dict[str, Any]
) -> None:
    """Steps of the kernel `name`: for experts with few pairs, and, where there may be more, with lanes of pairs.

    kind: the end of its name, in which {} is how the result is written.
    """
    check_format(weight)
    if weight.shape[0] < pairs.n_experts:
        raise PlanError(f"tensor {weight.name} has {weight.shape[0]} experts, of {pairs.n_experts}")
    plan, size = w.plan, w.size(out)
    groups, form, to = _in_order(w, pairs, out), forms.form_for(weight, plan.isa), arguments["out"]
    arguments |= {
        "row_bytes": row_bytes(weight), "n_rows": weight.shape[1], "n_columns": weight.shape[2],
        "n_used": pairs.n_used, "n_experts": pairs.n_experts, "scratch": w.inputs.scratch, "n_tokens": w.count(out),
    }  # fmt: skip
    ways = [("row_", groups.rows, form, plan.form(out), "")]
    if size > ROWWISE:
        lanes = plan.buffers.lanes(form, size)
        if lanes == "byte_lanes" and size == MANY and forms.is_rounded(weight, plan.isa):
            lanes = "apart_lanes"
        ways.append(("", groups.lanes, lanes, w.kind_of_lanes(out), how_to_multiply(plan, weight, size)))
    records = [_gathered(w, x, form, kind_of_rows, pairs, order, out) for _, order, kind_of_rows, *_ in ways]
    for (way, order, _, to_kind, how), x_records in zip(ways, records, strict=True):
        result = plan.buffers.rowwise(to) if way else to
        w.step(
            f"experts.{way}{name}:{weight.type}{kind.format(to_kind)}{how}", out, [x_records, order.parts], [result],
            **arguments | {"x": x_records, "out": result, "parts": order.parts, "slots": order.slots},
        )  # fmt: skip


def _in_order(w: CpuWriter, pairs: _Pairs, of: Value) -> Groups:
    """Pairs in the experts' order, of as many tokens as `of` has; put in it once."""
    groups = w.plan.buffers.groups(pairs.n_used, pairs.n_experts)
    rows, lanes = groups
    if not w.holds(rows.parts, (pairs.route, of.rows)):
        route = w.plan.buffer(pairs.route) if pairs.route else 0
        w.step(
            "routing.group", of, [route] if pairs.route else [], [rows.parts, lanes.parts], route=route,
            n_used=pairs.n_used, n_experts=pairs.n_experts, few=ROWWISE_PAIRS if w.size(of) > ROWWISE else _ANY_NUMBER,
            row_parts=rows.parts, row_slots=rows.slots, parts=lanes.parts, slots=lanes.slots,
            scratch=w.inputs.scratch, n_tokens=w.count(of),
        )  # fmt: skip
    return groups


def _gathered(w: CpuWriter, x: Value, form: str, kind: str, pairs: _Pairs, order: Order, out: Value) -> np.ndarray:
    """The records of an order's pairs, of a kind; gathered once for all products of the kind, if not made as such."""
    plan, in_lanes = w.plan, kind.endswith("lanes")
    is_made = plan.form(x) == form
    if is_made:
        records = plan.buffer(x)
    else:
        records = plan.buffers.packed(BufferKind(x.width, form, pairs.n_used, pairs.n_experts))
    records = records if in_lanes else plan.buffers.rowwise(records)
    if not is_made and not w.holds(records, (x.number, pairs.route, kind)):
        a, scratch = plan.buffer(x), {"scratch": w.inputs.scratch} if in_lanes else {}
        w.step(
            f"experts.gather{'' if in_lanes else '_rows'}:{kind}", out, [a, order.parts], [records], x=a,
            each=pairs.n_used // x.heads, n_columns=x.width, out=records, parts=order.parts, slots=order.slots,
            n_used=pairs.n_used, n_experts=pairs.n_experts, n_tokens=w.count(out), **scratch,
        )  # fmt: skip
    return records


def _matrix_bytes(weight: Tensor) -> int:
    """Bytes from one expert's matrix to the next, which may be rows of a larger one."""
    return weight.data.strides[0] if weight.data.ndim > 1 else weight.n_bytes // weight.shape[0]


def _expert_scale(w: CpuWriter, op: ExpertScale) -> None:
    if op.weight.shape[0] < w.plan.n_experts(op.route):
        raise PlanError(f"tensor {op.weight.name} has fewer factors than there are experts")
    x, route, out = (w.plan.buffer(value) for value in (op.x, op.route, op.out))
    w.step(
        "routing.expert_scale", op.out, [x, route], [out], x=x, route=route, factors=w.plan.floats(op.weight), out=out,
        n_used=op.x.heads, n_columns=op.x.width, n_tokens=w.count(op.out),
    )  # fmt: skip


def _combine(w: CpuWriter, op: Combine) -> None:
    x, out, weights = w.plan.buffer(op.x), w.plan.buffer(op.out), op.weights
    factors: Any = 0
    if weights:
        of_route = op.out.heads == 1 and weights.heads == op.x.heads
        buffer = w.plan.buffer(weights)
        factors = buffer.reshape(-1)[weights.width - 1 :] if of_route else buffer
    w.step(
        "routing.combine", op.out, [x, *([buffer] if weights else [])], [out], x=x, weights=factors,
        w_token=weights.size if weights else 0, w_step=weights.width if weights and of_route else 1, out=out,
        n_out=op.out.heads, n_in=op.x.heads, n_columns=op.x.width, n_tokens=w.count(op.out),
    )  # fmt: skip


STEPS: dict[type[Any], Callable[[CpuWriter, Any], None]] = {
    Route: _route,
    ExpertLinear: _expert_linear,
    ExpertScale: _expert_scale,
    HeadLinear: _head_linear,
    GatedExperts: _gated,
    Combine: _combine,
}

"""Experts: which a token takes, their products, and sums of what they made; and matrices that heads have of their own.

Pairs of tokens and experts are put in the experts' order once for each route (kernels/cpu/routing.py); every product of
these experts goes by that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ....fusion import GatedExperts
from ....kernels.layout import LANES, MOST_EXPERTS, RECORD_BYTES
from ....loader import Tensor
from ....operations import Combine, ExpertLinear, HeadLinear, Route, Value
from ...errors import PlanError
from .. import forms
from ..buffers import MANY, ROWWISE, Groups, Kind
from ..writer import Writer, unknown
from .products import check_format, how_to_multiply, row_bytes

_ALL_EXACT = {"softmax", "sigmoid", "softmax_used", "sqrt_softplus", "none"}


class _Pairs(NamedTuple):
    """Tokens with their experts. route: what tells them, None where each token has all."""

    n_used: int
    n_experts: int
    route: Value | None


def _route(w: Writer, op: Route) -> None:
    n = op.logits.size
    if op.gating not in _ALL_EXACT:
        raise unknown(op)
    if n > MOST_EXPERTS:
        raise PlanError(f"{n} experts: there may be {MOST_EXPERTS}")
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


def _vector(w: Writer, tensor: Tensor | None) -> Any:
    return w.plan.floats(tensor) if tensor else 0


def _expert_linear(w: Writer, op: ExpertLinear) -> None:
    _write_linear(w, op, _pairs(w, op.route), op.bias)


def _head_linear(w: Writer, op: HeadLinear) -> None:
    n = op.weight.shape[0]
    _write_linear(w, op, _Pairs(n, n, None), None)


def _pairs(w: Writer, route: Value) -> _Pairs:
    return _Pairs(route.heads, w.plan.n_experts(route), route)


def _write_linear(w: Writer, op: ExpertLinear | HeadLinear, pairs: _Pairs, bias: Tensor | None) -> None:
    out, vector = w.plan.buffer(op.out), _vector(w, bias)
    arguments = {"experts": op.weight.data, "expert_bytes": _matrix_bytes(op.weight), "bias": vector, "out": out}
    _product(w, "linear", "", pairs, op.x, op.weight, op.out, arguments)


def _gated(w: Writer, item: GatedExperts) -> None:
    gate, up, op, _ = item
    arguments = {
        "gates": gate.weight.data, "expert_bytes": _matrix_bytes(gate.weight), "gate_bias": _vector(w, gate.bias),
        "ups": up.weight.data, "up_bytes": _matrix_bytes(up.weight), "up_bias": _vector(w, up.bias),
        "p": float(op.limit), "out": w.plan.buffer(op.out),
    }  # fmt: skip
    kind = f":{w.kind_of_lanes(op.out)}:{op.kind}"
    _product(w, "glu", kind, _pairs(w, gate.route), gate.x, gate.weight, op.out, arguments)


def _product(
    w: Writer, name: str, kind: str, pairs: _Pairs, x: Value, weight: Tensor, out: Value, arguments: dict[str, Any]
) -> None:
    """A step of the kernel `name` with pairs' own records, or, for more tokens, with lanes of each expert's pairs."""
    check_format(weight)
    if weight.shape[0] < pairs.n_experts:
        raise PlanError(f"tensor {weight.name} has {weight.shape[0]} experts, of {pairs.n_experts}")
    plan, size = w.plan, w.size(out)
    groups = _in_order(w, pairs, out)
    form = forms.form_for(weight, plan.isa)
    n_rows, n_columns = weight.shape[1:]
    arguments |= {
        "row_bytes": row_bytes(weight), "n_rows": n_rows, "n_columns": n_columns, "parts": groups.parts,
        "slots": groups.slots, "n_used": pairs.n_used, "n_experts": pairs.n_experts, "scratch": w.inputs.scratch,
        "n_tokens": w.count(out),
    }  # fmt: skip
    if size <= ROWWISE:
        n_records = size * x.heads
        x_records = _records(w, x, form, n_records)
        arguments |= {
            "each": pairs.n_used // x.heads, "n_records": n_records, "record_bytes": RECORD_BYTES[form], "x": x_records
        }  # fmt: skip
        kernel = f"experts.row_{name}:{weight.type}{kind}"
    else:
        x_records = arguments["x"] = _lanes(w, x, weight, form, pairs, groups, out)
        kernel = f"experts.{name}:{weight.type}{kind}{how_to_multiply(plan, weight, size)}"
    w.step(kernel, out, [x_records, groups.parts], [arguments["out"]], **arguments)


def _in_order(w: Writer, pairs: _Pairs, of: Value) -> Groups:
    """Pairs in the experts' order, of as many tokens as `of` has; put in it once."""
    groups = w.plan.buffers.groups(pairs.n_used, pairs.n_experts)
    if not w.holds(groups.parts, (pairs.route, of.rows)):
        route = w.plan.buffer(pairs.route) if pairs.route else 0
        w.step(
            "routing.group", of, [route] if pairs.route else [], [groups.parts], route=route, n_used=pairs.n_used,
            n_experts=pairs.n_experts, pad=1 if w.size(of) <= ROWWISE else LANES, parts=groups.parts,
            slots=groups.slots, scratch=w.inputs.scratch, n_tokens=w.count(of),
        )  # fmt: skip
    return groups


def _records(w: Writer, x: Value, form: str, n_records: int) -> np.ndarray:
    """A row's records for each head of a few tokens."""
    if x.heads == 1 or w.plan.form(x) == form:
        return w.records_of(x, form)
    records = w.plan.buffers.packed(Kind(x.width, form, x.heads))
    if not w.holds(records, x.number):
        a = w.plan.buffer(x)
        w.step(
            f"rows.pack:{form}", x, [a], [records],
            a=a, b=a, out=records, n_columns=x.width, n_tokens=np.array([n_records], np.int64),
        )  # fmt: skip
    return records


def _lanes(
    w: Writer, x: Value, weight: Tensor, form: str, pairs: _Pairs, groups: Groups, out: Value
) -> np.ndarray:
    """Each expert's pairs in lanes; rows that are no records are gathered once for all products of a kind."""
    plan, size = w.plan, w.size(out)
    if plan.form(x) == form:
        return plan.buffer(x)
    kind = plan.buffers.lanes(form, size)
    if kind == "byte_lanes" and size == MANY and forms.is_rounded(weight, plan.isa):
        kind = "apart_lanes"
    records = plan.buffers.packed(Kind(x.width, form, pairs.n_used, pairs.n_experts))
    if not w.holds(records, (x.number, pairs.route, kind)):
        a = plan.buffer(x)
        w.step(
            f"experts.gather:{kind}", out, [a, groups.parts], [records], x=a, each=pairs.n_used // x.heads,
            n_columns=x.width, out=records, parts=groups.parts, slots=groups.slots, n_used=pairs.n_used,
            n_experts=pairs.n_experts, scratch=w.inputs.scratch, n_tokens=w.count(out),
        )  # fmt: skip
    return records


def _matrix_bytes(weight: Tensor) -> int:
    """Bytes from one expert's matrix to the next, which may be rows of a larger one."""
    return weight.data.strides[0] if weight.data.ndim > 1 else weight.n_bytes // weight.shape[0]


def _combine(w: Writer, op: Combine) -> None:
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


STEPS: dict[type[Any], Callable[[Writer, Any], None]] = {
    Route: _route,
    ExpertLinear: _expert_linear,
    HeadLinear: _head_linear,
    GatedExperts: _gated,
    Combine: _combine,
}

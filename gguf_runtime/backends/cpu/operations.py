"""Each operation's steps on the CPU: a table, to which a new operation adds an entry.

What there is no kernel for is a PlanError that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...fusion import AddedProduct, GatedProduct, Single
from ...kernels.layout import MAX_TASK_ROWS, PAGE, SCRATCH, head_bytes
from ...operations import Add, Attention, Embed, Gate, Input, Linear, Norm, Op, Rope, SelectRows, View, describe
from ..errors import PlanError
from .buffers import FEW, MANY, ROWWISE
from .plan import Plan
from .writer import Step, Writer, check_format, row_bytes


def kernels(plan: Plan) -> list[str]:
    """Names of all kernels that any batch may need."""
    sizes = range(1, ROWWISE + 1)
    variants = [*((n, n, True) for n in sizes), (FEW, FEW, True), (MANY, 1, False)]
    return list(dict.fromkeys(step.kernel for variant in variants for step in write(plan, *variant)))


def write(plan: Plan, n_tokens: int, n_logits: int, split: bool) -> list[Step]:
    """The steps for batches of a size (see FEW), and of tokens with logits, which may be none. Raises PlanError.

    split: whether the attention of some tokens is cut into spans.
    """
    writer = Writer(plan, n_tokens, n_logits, split)
    for item in plan.fused:
        if n_logits or item.makes[0].rows == "token":
            key, op = (type(item.op), item.op) if isinstance(item, Single) else (type(item), item)
            if key not in _STEPS:
                raise _unknown(item.op if isinstance(item, Single) else item.linear)  # type: ignore[union-attr]
            _STEPS[key](writer, op)
    return writer.steps


def _unknown(op: Op, why: str = "") -> PlanError:
    return PlanError(f"{describe(op)}: the CPU has no kernel for that{why} yet")


def _embed(w: Writer, op: Embed) -> None:
    check_format(op.table)
    if op.scale != 1 or op.by != "token":
        raise _unknown(op, ", scaled or by position,")
    out = w.plan.buffer(op.out)
    w.step(
        f"rows.embed:{op.table.type}", op.out, [], [out], weights=op.table.data, row_bytes=row_bytes(op.table),
        n_columns=op.out.size, ids=w.inputs.ids, out=out, scratch=w.inputs.scratch, n_tokens=w.count(op.out),
    )  # fmt: skip


def _select(w: Writer, op: SelectRows) -> None:
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    w.step(
        "rows.gather", op.out, [x], [out],
        x=x, rows=w.inputs.rows, out=out, n_columns=op.out.size, n_tokens=w.count(op.out),
    )  # fmt: skip


def _norm(w: Writer, op: Norm) -> None:
    if op.kind != "rms" or not op.weight or op.bias or op.weight.shape != (op.x.width,):
        raise _unknown(op, ", other than RMS with one weight for each column of a head,")
    x, out, weight = w.plan.buffer(op.x), w.plan.buffer(op.out), w.plan.floats(op.weight)
    w.step(
        f"rows.rms_norm:{w.kind_of_lanes(op.out)}", op.out, [x], [out], x=x, weight=weight, out=out,
        n_columns=op.out.width, n_heads=op.out.heads, eps=op.eps, scratch=w.inputs.scratch, n_tokens=w.count(op.out),
    )  # fmt: skip


def _linear(w: Writer, op: Linear) -> None:
    _write_linear(w, op, add=False)


def _added(w: Writer, item: AddedProduct) -> None:
    _write_linear(w, item.linear._replace(out=item.out), add=True)


def _write_linear(w: Writer, op: Linear, *, add: bool) -> None:
    bias = w.plan.floats(op.bias) if op.bias else 0
    w.product("linear", op.weight, op.x, op.out, weights=op.weight.data, bias=bias, add=add)


def _gated(w: Writer, item: GatedProduct) -> None:
    gate, up, kind = item.gate, item.up, f":{w.kind_of_lanes(item.op.out)}"
    w.product("swiglu", gate.weight, gate.x, item.op.out, kind, gate=gate.weight.data, up=up.weight.data)


def _gate(w: Writer, op: Gate) -> None:
    if op.kind != "silu" or op.limit:
        raise _unknown(op)
    a, b, out = w.plan.buffer(op.gate), w.plan.buffer(op.up), w.plan.buffer(op.out)
    w.step(
        f"rows.swiglu:{w.kind(op.out)}", op.out, [a, b], [out],
        a=a, b=b, out=out, n_columns=op.out.size, n_tokens=w.count(op.out),
    )  # fmt: skip


def _add(w: Writer, op: Add) -> None:
    if op.scale != 1 or op.a.size != op.b.size:
        raise _unknown(op, ", scaled or of other shapes,")
    a, b, out = w.plan.buffer(op.a), w.plan.buffer(op.b), w.plan.buffer(op.out)
    w.step("rows.add", op.out, [a, b], [out], a=a, b=b, out=out, n_columns=op.out.size, n_tokens=w.count(op.out))


def _rope(w: Writer, op: Rope) -> None:
    if op.offset:
        raise _unknown(op, " from a later column on")
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    if x is not out:  # somebody needs it as it was
        w.step(
            "rows.pack:plain", op.out, [x], [out],
            a=x, b=x, out=out, n_columns=op.out.size, n_tokens=w.count(op.out),
        )  # fmt: skip
    cos, sin = w.inputs.angles[id(op.frequencies)]
    w.step(
        f"rope.rope:{op.frequencies.layout}", op.out, [out], [out], x=out, cos=cos, sin=sin, n_heads=op.out.heads,
        head_dim=op.out.width, n_rot=2 * len(op.frequencies.frequencies), n_tokens=w.count(op.out),
    )  # fmt: skip


def _attention(w: Writer, op: Attention) -> None:
    if not op.k or not op.v or not op.causal or op.chunk or op.sinks or op.softcap or op.alibi or op.bias:
        raise _unknown(op, ", with more than a causal mask and a window,")
    layout, isa = w.plan.layout, w.plan.isa
    q, k, v, out = (w.plan.buffer(value) for value in (op.q, op.k, op.v, op.out))
    n_heads, head_dim, v_dim = op.q.heads, op.q.width, op.v.width
    _check_heads(op)
    types, pages = f"{layout.k_type}:{layout.v_type}", layout.k_offset  # the latter stands for the cache
    shared = {
        "head_dim": head_dim, "v_dim": v_dim, "k_offset": layout.k_offset[op.slot],
        "v_offset": layout.v_offset[op.slot], "k_bytes": head_bytes(layout.k_type, head_dim),
        "v_bytes": head_bytes(layout.v_type, v_dim), "scratch": w.inputs.scratch, "n_tokens": w.inputs.n_tokens,
    }  # fmt: skip
    w.step(
        f"kv.save:{types}", op.out, [k, v], [pages], k=k, v=v, slots=w.inputs.slots, n_heads=op.kv_heads, **shared
    )
    partials, kind = w.plan.buffers.partials(w.inputs.n_partials, n_heads, v_dim), w.kind(op.out)
    # blocks of many tokens may multiply bf16 where the result is rounded as much anyway
    how = ":bfloats" if isa.dots_bfloats and kind in ("byte_lanes", "bfloat_lanes") else ""
    w.step(
        f"attention.attend:{types}:{kind}{how}", op.out, [q, pages], [out, partials], q=q, out=out,
        blocks=w.inputs.blocks, n_heads=n_heads, n_kv_heads=op.kv_heads, scale=float(op.scale), window=op.window,
        partials=partials, n_blocks=w.inputs.n_blocks, **shared,
    )  # fmt: skip
    if w.split:
        w.step(
            f"attention.merge:{kind}", op.out, [partials], [out], out=out, splits=w.inputs.splits, n_heads=n_heads,
            v_dim=v_dim, partials=partials, scratch=w.inputs.scratch, n_splits=w.inputs.n_splits,
            n_tokens=w.inputs.n_tokens,
        )  # fmt: skip


def _check_heads(op: Attention) -> None:
    head_dim, v_dim = op.q.width, op.v_width
    size = 4 * (MAX_TASK_ROWS * (head_dim + v_dim + PAGE + 17 + 16) + PAGE * max(head_dim, v_dim + 16))
    if op.q.heads // op.kv_heads > MAX_TASK_ROWS or size > SCRATCH:
        raise PlanError(f"attention heads of {head_dim} dimensions, {op.q.heads} to {op.kv_heads}: too large")


_STEPS: dict[type[Any], Callable[[Writer, Any], None]] = {
    Input: lambda w, op: None,  # it is there
    View: lambda w, op: None,  # the same memory
    Embed: _embed,
    SelectRows: _select,
    Norm: _norm,
    Linear: _linear,
    AddedProduct: _added,
    GatedProduct: _gated,
    Gate: _gate,
    Add: _add,
    Rope: _rope,
    Attention: _attention,
}

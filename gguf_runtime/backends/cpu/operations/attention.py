"""Attention: keys and values into the cache, and the queries that meet them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....kernels.layout import MAX_TASK_ROWS, PAGE, SCRATCH, head_bytes
from ....operations import Attention
from ...errors import PlanError
from ..writer import Writer, unknown


def _attention(w: Writer, op: Attention) -> None:
    if not op.k or not op.v or not op.causal or op.chunk or op.sinks or op.softcap or op.alibi or op.bias:
        raise unknown(op, ", with more than a causal mask and a window,")
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


STEPS: dict[type[Any], Callable[[Writer, Any], None]] = {Attention: _attention}

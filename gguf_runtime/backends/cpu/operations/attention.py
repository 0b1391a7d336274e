"""Attention: keys and values into the cache, and the queries that meet them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....kernels.layout import MAX_TASK_ROWS, MOST_DISTANCE, PAGE, SCRATCH, head_bytes
from ....operations import Attention
from ...biases import alibi_slopes, distance_buckets
from ...errors import PlanError
from ..writer import CpuWriter
from .selection import save


def _attention(w: CpuWriter, op: Attention) -> None:
    _check_heads(op)
    (layout, places), isa = w.plan.places(op.slot), w.plan.isa
    n_heads, head_dim, v_dim = op.q.heads, op.q.width, op.v_width
    types, pages = f"{layout.types.k}:{layout.types.v}", layout.k_offset  # the latter stands for the cache
    shared = {
        "head_dim": head_dim, "v_dim": v_dim, "k_offset": layout.k_offset[op.slot],
        "v_offset": layout.v_offset[op.slot], "k_bytes": head_bytes(layout.types.k, head_dim),
        "v_bytes": head_bytes(layout.types.v, v_dim), "scratch": w.inputs.scratch, "n_tokens": w.inputs.n_tokens,
    }  # fmt: skip
    if op.k:
        save(w, op.slot, op.k, op.v, op.kv_heads, v_dim)
    q, out = w.plan.buffer(op.q), w.plan.buffer(op.out)
    partials, kind = w.plan.buffers.partials(w.inputs.n_partials, n_heads, v_dim), w.kind(op.out)
    # blocks of many tokens may multiply bf16 where the result is rounded as much anyway; nobody wants f32 for that
    rounded = isa.dots_bfloats and kind in ("byte_lanes", "bfloat_lanes") and "f32" not in types
    how = "bfloats" if rounded else "exact"
    terms = _terms(op)
    suffix = f":{how}:{terms}" if terms else ":bfloats" if how == "bfloats" else ""
    sinks = w.plan.floats(op.sinks) if op.sinks else 0
    chosen, n_chosen = (w.plan.buffer(op.keys), op.keys.width) if op.keys else (0, 0)
    blocks, n_blocks = places.blocks, w.inputs.n_blocks
    if op.source:
        blocks, n_blocks = w.inputs.source_blocks, w.inputs.n_source_blocks
    w.step(
        f"attention.attend:{types}:{kind}{suffix}", op.out, [q, pages, chosen], [out, partials], q=q, out=out,
        chosen=chosen, n_chosen=n_chosen, **_summaries(w, op),
        blocks=blocks, n_heads=n_heads, n_kv_heads=op.kv_heads, scale=float(op.scale), window=op.window,
        chunk=op.chunk, softcap=float(op.softcap), sinks=sinks, slopes=_slopes(op), bias=_bias(w, op),
        partials=partials, n_blocks=n_blocks, **shared,
    )  # fmt: skip
    if w.split and not op.source:
        w.step(
            f"attention.merge:{kind}{':sinks' if op.sinks else ''}", op.out, [partials], [out], out=out,
            splits=w.inputs.splits, n_heads=n_heads, v_dim=v_dim, sinks=sinks, partials=partials,
            scratch=w.inputs.scratch, n_splits=w.inputs.n_splits, n_tokens=w.inputs.n_tokens,
        )  # fmt: skip


def _summaries(w: CpuWriter, op: Attention) -> dict[str, Any]:
    """What the kernel is told of the slot with summaries."""
    if op.summaries is None:
        return {"summaries": 0, "summary_keys": 0, "summary_values": 0, "stride_seen": 0}
    layout, places = w.plan.places(op.summaries)
    keys, values = layout.k_offset[op.summaries], layout.v_offset[op.summaries]
    return {"summaries": places.blocks, "summary_keys": keys, "summary_values": values, "stride_seen": op.stride}


def _terms(op: Attention) -> str:
    """What an attention has beyond a causal mask and a window, as its kernel names it."""
    terms = {
        "both": not op.causal, "chunk": op.chunk, "softcap": op.softcap, "alibi": op.alibi, "bias": op.bias,
        "sinks": op.sinks, "chosen": op.keys, "summaries": op.stride,
    }  # fmt: skip
    return "+".join(name for name, has in terms.items() if has)


def _slopes(op: Attention) -> np.ndarray | int:
    return alibi_slopes(op.q.heads, op.alibi).astype(np.float32) if op.alibi else 0


def _bias(w: CpuWriter, op: Attention) -> np.ndarray | int:
    """f32[heads][2·MOST_DISTANCE + 1], by distance."""
    if not op.bias:
        return 0
    table = w.plan.floats(op.bias).reshape(op.bias.shape)
    distances = np.arange(-MOST_DISTANCE, MOST_DISTANCE + 1)
    return np.ascontiguousarray(table[distance_buckets(distances, len(table), op.causal)].T)


def _check_heads(op: Attention) -> None:
    head_dim, v_dim = op.q.width, op.v_width
    size = 4 * (MAX_TASK_ROWS * (head_dim + v_dim + PAGE + 17 + 16) + PAGE * max(head_dim, v_dim + 16) + PAGE)
    if op.q.heads // op.kv_heads > MAX_TASK_ROWS or size > SCRATCH:
        raise PlanError(f"attention heads of {head_dim} dimensions, {op.q.heads} to {op.kv_heads}: too large")


STEPS: dict[type[Any], Callable[[CpuWriter, Any], None]] = {Attention: _attention}

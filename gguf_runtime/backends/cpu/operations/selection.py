"""Keys that are kept for others to look at, and the choice among them for sparse attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....kernels.layout import PAGE, SCRATCH, head_bytes
from ....operations import BestKeys, Keep, Value
from ...errors import PlanError
from ..writer import CpuWriter
from .rows import copy


def save(w: CpuWriter, slot: int, k: Value, v: Value | None, heads: int, v_dim: int) -> None:
    """Put keys and values into the cache; v is None where values are the first columns of keys, or none (v_dim 0)."""
    if not v and v_dim and heads > 1:
        raise PlanError(f"values that are a part of the keys of {heads} heads: the CPU has no kernel for that yet")
    (layout, places), keys, values = w.plan.places(slot), w.plan.buffer(k), w.plan.buffer(v or k)
    w.step(
        f"kv.save:{layout.types.k}:{layout.types.v}", k, [keys, values], [layout.k_offset],
        k=keys, v=values, v_token=(v or k).size, slots=places.slots, n_heads=heads, head_dim=k.width, v_dim=v_dim,
        k_offset=layout.k_offset[slot], v_offset=layout.v_offset[slot], k_bytes=head_bytes(layout.types.k, k.width),
        v_bytes=head_bytes(layout.types.v, v_dim), scratch=w.inputs.scratch, n_tokens=w.inputs.n_tokens,
    )  # fmt: skip


def _keep(w: CpuWriter, op: Keep) -> None:
    save(w, op.slot, op.k, op.v, op.k.heads, w.plan.kv[op.slot].v_dim)
    copy(w, op.out, op.k)


def _best_keys(w: CpuWriter, op: BestKeys) -> None:
    (layout, _), n_heads = w.plan.places(op.slot), op.q.heads
    save(w, op.slot, op.k, None, 1, 0)
    if 4 * (PAGE * n_heads + op.n + 16 + w.inputs.most_keys) > SCRATCH:
        raise PlanError(f"a choice of {op.n} among {w.inputs.most_keys} keys: too many")
    q, out = w.plan.buffer(op.q), w.plan.buffer(op.out)
    weights = w.plan.buffer(op.weights) if op.weights else 0
    w.step(
        f"selection.best:{layout.types.k}:{op.spread or 'single'}", op.out, [q, weights, layout.k_offset], [out],
        q=q, weights=weights, out=out, tables=w.inputs.tables, positions=w.inputs.positions, n_heads=n_heads,
        head_dim=op.q.width, n=op.n, stride=op.stride, k_offset=layout.k_offset[op.slot], scratch=w.inputs.scratch,
        n_tokens=w.inputs.n_tokens,
    )  # fmt: skip


STEPS: dict[type[Any], Callable[[CpuWriter, Any], None]] = {Keep: _keep, BestKeys: _best_keys}

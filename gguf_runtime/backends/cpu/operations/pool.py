"""Pooling: one row for each text, and what classifiers make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....operations import Pool
from ..writer import CpuWriter


def _pool(w: CpuWriter, op: Pool) -> None:
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    shared = {"x": x, "out": out, "n_columns": op.out.size, "n_tokens": w.count(op.out)}
    if op.kind == "mean":
        w.step("pool.mean", op.out, [x], [out], first_rows=w.inputs.first_rows, last_rows=w.inputs.rows, **shared)
    else:
        rows = w.inputs.first_rows if op.kind == "first" else w.inputs.rows
        w.step("rows.gather", op.out, [x], [out], rows=rows, **shared)


STEPS: dict[type[Any], Callable[[CpuWriter, Any], None]] = {Pool: _pool}

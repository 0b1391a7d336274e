"""Operations that keep a state of each sequence: convolutions, the token before, recurrences, rows by n-grams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....kernels.layout import SCRATCH
from ....loader import Tensor
from ....operations import Conv, EmbedNgrams, Recurrence, Shift, Stateful, Value, describe
from ...errors import PlanError
from ..writer import CpuWriter, unknown
from .products import check_format, row_bytes


def state_bytes(op: Stateful) -> int:
    """What the kernels keep of a sequence; kernels/cpu/recurrence.py says how."""
    if isinstance(op, Conv):
        return 4 * (op.weight.shape[1] - 1) * op.dilation * op.x.size
    if isinstance(op, Shift):
        return 4 * op.x.size
    if isinstance(op, EmbedNgrams):
        return 8 * (len(op.multipliers) - 1)
    heads, n, width = _shape(op) if op.kind in _INPUTS else (0, 0, 0)
    return 4 * heads * n * (-(-width // 16) * 16)


def _conv(w: CpuWriter, op: Conv) -> None:
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    taps = op.weight.shape[1]
    weight = w.plan.made(op.weight, "by tap", lambda values: np.ascontiguousarray(values.reshape(-1, taps).T))
    w.step(
        f"recurrence.conv:{'bias' if op.bias else 'plain'}", op.out, [x], [out], x=x, weight=weight,
        bias=w.plan.floats(op.bias) if op.bias else 0, out=out, n_columns=op.x.size, taps=taps, dilation=op.dilation,
        zeros=w.inputs.zeros, **_batch(w, op),
    )  # fmt: skip


def _shift(w: CpuWriter, op: Shift) -> None:
    x, out = w.plan.buffer(op.x), w.plan.buffer(op.out)
    w.step(
        "recurrence.shift", op.out, [x], [out], x=x, out=out, n_columns=op.x.size, zeros=w.inputs.zeros,
        **_batch(w, op),
    )  # fmt: skip


def _recurrence(w: CpuWriter, op: Recurrence) -> None:
    if op.kind not in _INPUTS:
        raise unknown(op)
    heads, n, width = _shape(op)
    named: dict[str, Value | Tensor] = dict(zip(_INPUTS[op.kind], [*op.inputs, *op.weights], strict=True))
    arguments: dict[str, Any] = {"share": heads // op.inputs[_INPUTS[op.kind].index("k")].heads}
    for name in "qkvdab":
        memory, token, head = _argument(w, named.get(name), op.heads)
        arguments |= {name: memory, f"{name}_token": token, f"{name}_head": head}
    for name in "q_head", "k_head", "v_token", "v_head":
        del arguments[name]
    rates = "a" if op.kind == "ssm" else "d"
    decay = "one" if arguments[f"{rates}_head"] == 1 else "each"
    by_column = heads < op.heads
    if by_column:
        arguments["a"] = w.plan.made(op.weights[0], "by column", lambda rates: _by_column(rates.reshape(width, n)))
    out = w.plan.buffer(op.out)
    w.step(
        f"recurrence.scan:{'ssm_columns' if by_column else op.kind}:{decay}", op.out,
        [w.plan.buffer(value) for value in op.inputs], [out], out=out, n_heads=heads, n=n, width=width,
        scratch=w.inputs.scratch, **_batch(w, op), **arguments,
    )  # fmt: skip


def _embed_ngrams(w: CpuWriter, op: EmbedNgrams) -> None:
    check_format(op.table)
    out, (rows, count) = w.plan.buffer(op.out), w.inputs.ngrams[op.slot]
    w.step(
        f"rows.embed:{op.table.type}", op.out, [], [out], weights=op.table.data, row_bytes=row_bytes(op.table),
        n_columns=op.out.width, ids=rows, out=out, scratch=w.inputs.scratch, n_tokens=count,
    )  # fmt: skip


#: What the inputs and then the weights of each kind are for the kernel.
_INPUTS = {"ssm": "vdkqab", "delta": "qkvda", "linear": "qkvd", "rwkv6": "qkvda", "rwkv7": "qkvdab"}


def _shape(op: Recurrence) -> tuple[int, int, int]:
    """Heads, rows and columns of the state; Mamba's heads of one column are columns of one head.

    Raises PlanError where the inputs' shapes do not fit each other.
    """
    sizes = dict(zip(_INPUTS[op.kind], op.inputs, strict=False))
    q, k, v, d = (sizes.get(name) for name in "qkvd")
    assert q and k and v
    n, fits = k.width, (q.heads, q.width) == (k.heads, k.width) and v.size == op.heads * op.width
    if op.heads % k.heads or not fits or (d and d.size not in (op.heads, op.heads * n)) or 8 * n + 128 > SCRATCH:
        raise PlanError(f"{describe(op)}: {op.heads} heads of {op.width} and keys of {k.heads} × {n} do not fit")
    single = op.kind == "ssm" and op.width == k.heads == 1
    return (1, n, op.heads) if single else (op.heads, n, op.width)


def _argument(w: CpuWriter, item: Value | Tensor | None, heads: int) -> tuple[Any, int, int]:
    """Memory of an input or a weight, and its numbers from token to token and from head to head."""
    if item is None:
        return 0, 0, 0
    if isinstance(item, Tensor):
        return w.plan.floats(item), 0, _numbers(item) // heads
    return w.plan.buffer(item), item.size, item.size // heads


def _numbers(item: Value | Tensor) -> int:
    return int(np.prod(item.shape)) if isinstance(item, Tensor) else item.size


def _by_column(rates: np.ndarray) -> np.ndarray:
    """f32[columns][n] → f32[columns / 16][n][16]"""
    columns, n = rates.shape
    padded = np.zeros((-(-columns // 16) * 16, n), np.float32)
    padded[:columns] = rates
    return np.ascontiguousarray(padded.reshape(-1, 16, n).transpose(0, 2, 1))


def _batch(w: CpuWriter, op: Stateful) -> dict[str, Any]:
    """What all kernels of states are told of a batch."""
    assert w.plan.states
    return {
        "groups": w.inputs.groups, "segments": w.inputs.segments, "n_groups": w.inputs.n_groups,
        "state": w.plan.states.layout.offset[op.slot],
    }  # fmt: skip


STEPS: dict[type[Any], Callable[[CpuWriter, Any], None]] = {
    Conv: _conv,
    Shift: _shift,
    Recurrence: _recurrence,
    EmbedNgrams: _embed_ngrams,
}

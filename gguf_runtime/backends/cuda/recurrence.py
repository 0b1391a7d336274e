"""Operations that keep a state of each sequence: convolutions, the token before, recurrences; and one row of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...loader import Tensor
from ...operations import Conv, Pool, Recurrence, Shift, Stateful, Value, describe
from ..errors import PlanError
from .sizes import tiles_of
from .writer import CudaWriter, unknown

#: What the inputs and then the weights of each kind are for the kernel.
_INPUTS = {"ssm": "vdkqab", "delta": "qkvda", "linear": "qkvd", "rwkv6": "qkvda", "rwkv7": "qkvdab"}
_MOST_KEYS = 1024  # of a head, whose columns of the state shared memory holds


def state_bytes(op: Stateful) -> int:
    """What the kernels keep of a sequence, f32."""
    if isinstance(op, Conv):
        return 4 * (op.weight.shape[1] - 1) * op.dilation * op.x.size
    if isinstance(op, Recurrence) and op.kind in _INPUTS:
        return 4 * op.out.size * _keys(op).width
    return 4 * op.out.size


def _conv(w: CudaWriter, op: Conv) -> None:
    x, out, (n_columns, taps) = w.floats(op.x), w.floats(op.out), op.weight.shape
    w.launch(
        "conv", (tiles_of(n_columns, 128), w.sizes.n_chunks), 128, x.at, x.stride, w.plan.floats(op.weight),
        w.plan.floats(op.bias) if op.bias else 0, out.at, out.stride, n_columns, taps, op.dilation, *_states(w, op),
    )  # fmt: skip


def _shift(w: CudaWriter, op: Shift) -> None:
    x, out, n_columns = w.floats(op.x), w.floats(op.out), op.x.size
    w.launch(
        "shift", (tiles_of(n_columns, 128), w.sizes.n_chunks), 128, x.at, x.stride, out.at, out.stride, n_columns,
        *_states(w, op),
    )  # fmt: skip


def _recurrence(w: CudaWriter, op: Recurrence) -> None:
    if op.kind not in _INPUTS:
        raise unknown(op)
    named, heads, k = _named(op), op.heads, _keys(op)
    (q_at, q_token, q_head), (k_at, k_token, k_head), (v_at, v_token, v_head) = (
        _argument(w, named[name], heads) for name in "qkv"
    )
    if heads % k.heads or q_head != k_head or v_head != op.width or k.width > _MOST_KEYS:
        raise PlanError(f"{describe(op)}: {heads} heads of {op.width} and keys of {k.heads} × {k.width} do not fit")
    others = [number for name in "dab" for number in _argument(w, named.get(name), heads)]
    out = w.floats(op.out)
    w.launch(
        f"scan<{op.kind}>", (tiles_of(op.out.size, 32), w.sizes.n_chunks), 32, q_at, q_token, k_at, k_token,
        heads // k.heads, v_at, v_token, *others, out.at, out.stride, op.out.size, op.width, k.width,
        *_states(w, op), shared=128 * k.width,
    )  # fmt: skip


def _pool(w: CudaWriter, op: Pool) -> None:
    x, out, how = w.floats(op.x), w.floats(op.out), ("mean", "first", "last").index(op.kind)
    w.launch(
        "pool", (tiles_of(op.x.size, 128), w.sizes.n_chunks), 128, x.at, x.stride, out.at, out.stride, op.x.size, how,
        w.inputs.chunks, w.inputs.n_chunks,
    )  # fmt: skip


def _named(op: Recurrence) -> dict[str, Value | Tensor]:
    return dict(zip(_INPUTS[op.kind], [*op.inputs, *op.weights], strict=True))


def _keys(op: Recurrence) -> Value:
    return op.inputs[_INPUTS[op.kind].index("k")]


def _argument(w: CudaWriter, item: Value | Tensor | None, heads: int) -> tuple[int, int, int]:
    """Address of an input or a weight, and its numbers from token to token and from head to head."""
    if item is None:
        return 0, 0, 0
    if isinstance(item, Tensor):
        return w.plan.floats(item), 0, math.prod(item.shape) // heads
    rows = w.floats(item)
    return rows.at, rows.stride, item.size // heads


def _states(w: CudaWriter, op: Stateful) -> tuple[int, int, int, int]:
    """What kernels of states are told of a batch."""
    if not w.plan.states:
        raise PlanError(f"{describe(op)}: layers with a state cannot be streamed to a GPU yet")
    return w.plan.states.offset[op.slot], w.inputs.chunks, w.inputs.segments, w.inputs.n_chunks


LAUNCHES: dict[type[Any], Callable[[CudaWriter, Any], None]] = {
    Conv: _conv,
    Shift: _shift,
    Recurrence: _recurrence,
    Pool: _pool,
}

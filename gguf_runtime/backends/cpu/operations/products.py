"""Products of weights: for few tokens straight from their rows, for more in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ....fusion import AddedProduct, GatedProduct
from ....kernels.layout import FLOATS, FORMATS
from ....loader import Tensor
from ....operations import Linear, Value
from ...errors import PlanError
from .. import forms
from ..buffers import MANY, ROWWISE
from ..plan import CpuPlan
from ..writer import CpuWriter


def _linear(w: CpuWriter, op: Linear) -> None:
    _write_linear(w, op, add=False)


def _added(w: CpuWriter, item: AddedProduct) -> None:
    _write_linear(w, item.linear._replace(out=item.out), add=True)


def _write_linear(w: CpuWriter, op: Linear, *, add: bool) -> None:
    bias = w.plan.floats(op.bias) if op.bias else 0
    _product(w, "linear", op.weight, op.x, op.out, weights=op.weight.data, bias=bias, add=add)


def _gated(w: CpuWriter, item: GatedProduct) -> None:
    gate, up, kind = item.gate, item.up, f":{w.kind_of_lanes(item.op.out)}"
    _product(w, "swiglu", gate.weight, gate.x, item.op.out, kind, gate=gate.weight.data, up=up.weight.data)


def _product(w: CpuWriter, name: str, weight: Tensor, x: Value, out: Value, kind: str = "", **own: Any) -> None:
    """A step of the kernel `name` for one token, or for more; weight: tells the type and shape of all weights."""
    check_format(weight)
    plan, n = w.plan, w.size(x)
    records, to = w.records_of(x, forms.form_for(weight, plan.isa)), plan.buffer(out)
    arguments = {
        "row_bytes": row_bytes(weight), "n_rows": weight.shape[0], "n_columns": weight.shape[1], "x": records,
        "out": to, "scratch": w.inputs.scratch, **own,
    }  # fmt: skip
    module, how = "matvec", f":{n}"
    if n > ROWWISE:
        module, how, arguments["n_tokens"] = "matmul", how_to_multiply(plan, weight, n), w.count(x)
    suffix = f"{how}{kind}" if module == "matvec" else f"{kind}{how}"
    w.step(f"{module}.{name}:{weight.type}{suffix}", x, [records], [to], **arguments)


def how_to_multiply(plan: CpuPlan, weight: Tensor, size: int) -> str:
    """How tokens side by side meet weights in batches of a size: the end of a name in kernels/cpu/matmul.py."""
    if size == MANY and plan.isa.has_tiles and (weight.type == "BF16" or weight.type not in FLOATS):
        return ":tiles"
    if plan.isa.dots_bfloats and weight.type == "BF16":
        return ":bfloats"
    return ":rounded" if size == MANY and forms.is_rounded(weight, plan.isa) else ""


def check_format(tensor: Tensor) -> None:
    """Raises PlanError where there are no kernels for a matrix of this type."""
    if tensor.type not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise PlanError(f"tensor {tensor.name} has type {tensor.type}, which has no kernels yet; ggrun runs {known}")


def row_bytes(tensor: Tensor) -> int:
    """Bytes of a row of a matrix, or of each of several."""
    return tensor.n_bytes // math.prod(tensor.shape[:-1])


STEPS: dict[type[Any], Callable[[CpuWriter, Any], None]] = {
    Linear: _linear,
    AddedProduct: _added,
    GatedProduct: _gated,
}

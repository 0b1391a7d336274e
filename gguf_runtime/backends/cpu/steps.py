"""From a plan to the CPU's kernels: which run, in which order, on which memory, and where threads must meet."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...graph import Add, Attention, Embed, Linear, Norm, Op, Pick, Rope, SwiGlu, Value
from ...kernels.layout import FORMATS, MAX_TASK_ROWS, PAGE, SCRATCH, head_bytes
from ...loader import Tensor
from ..errors import PlanError
from . import fusion
from .buffers import FEW, MANY, ROWWISE
from .plan import Plan


class Step(NamedTuple):
    """A kernel to run; `meet` where all threads must have finished what came before."""

    kernel: str
    arguments: dict[str, Any]
    meet: bool


def size_of(n_tokens: int) -> int:
    """The size of batch that n_tokens are."""
    return n_tokens if n_tokens <= ROWWISE else FEW if n_tokens <= FEW else MANY


def first_kernels(plan: Plan) -> list[str]:
    """Names of the kernels that a prompt and one token after another need: the others come with guesses and batches."""
    return _kernels(plan, (1, 1, True), (FEW, 1, True), (MANY, 1, False))


def kernels(plan: Plan) -> list[str]:
    """Names of all kernels that any batch may need."""
    sizes = range(1, ROWWISE + 1)
    return _kernels(plan, *((n, n, True) for n in sizes), (FEW, FEW, True), (MANY, 1, False))


def _kernels(plan: Plan, *variants: tuple[int, int, bool]) -> list[str]:
    return list(dict.fromkeys(step.kernel for variant in variants for step in write(plan, *variant)))


def write(plan: Plan, n_tokens: int, n_logits: int, split: bool) -> list[Step]:
    """The steps for batches of a size (see FEW), and of tokens with logits, which may be none. Raises PlanError.

    split: whether the attention of some tokens is cut into spans.
    """
    return _Writer(plan, n_tokens, n_logits, split).write()


class _Writer:
    """Writes the steps of one variant, keeping account of who reads and writes which memory."""

    def __init__(self, plan: Plan, n_tokens: int, n_logits: int, split: bool) -> None:
        self._plan, self._in = plan, plan.inputs
        self._n_tokens, self._n_logits, self._split = n_tokens, n_logits, split
        self._steps: list[Step] = []
        self._packed: dict[tuple[int, str], int] = {}  # records → the value that they hold
        self._read: set[int] = set()  # memory touched since the threads last met
        self._written: set[int] = set()

    def write(self) -> list[Step]:
        for i, op in enumerate(self._plan.ops):
            if not (op.out.picked and self._n_logits == 0 or self._plan.is_part(i)):
                self._write_op(i, op)
        return self._steps

    def _step(self, kernel: str, reads: list[Any], writes: list[Any], **arguments: Any) -> None:
        r, w = {id(x) for x in reads}, {id(x) for x in writes}
        meet = bool(r & self._written or w & (self._read | self._written))
        if meet:
            self._read, self._written = set(), set()
        self._read |= r
        self._written |= w
        if self._few:
            arguments = {name: self._plan.buffers.rowwise(value) for name, value in arguments.items()}
        self._steps.append(Step(kernel, arguments, meet))

    def _write_op(self, i: int, op: Op) -> None:
        p, n = self._plan, self._count(op.out)
        self._few = self._size(op.out) <= ROWWISE
        out, width = p.buffer(op.out), op.out.width
        if isinstance(op, Embed):
            _check(op.table)
            self._step(
                f"rows.embed:{op.table.type}", [], [out], weights=op.table.data, row_bytes=_row_bytes(op.table),
                n_columns=width, ids=self._in.ids, out=out, scratch=self._in.scratch, n_tokens=n,
            )  # fmt: skip
        elif isinstance(op, Norm):
            x, weight, kind = p.buffer(op.x), p.floats(op.weight), self._kind_of_lanes(op.out)
            self._step(
                f"rows.rms_norm:{kind}", [x], [out], x=x, weight=weight, out=out, n_columns=width, eps=op.eps,
                scratch=self._in.scratch, n_tokens=n,
            )  # fmt: skip
        elif isinstance(op, Linear):
            self._linear(op, i in p.residual)
        elif isinstance(op, Rope):
            cos, sin = self._in.angles[id(op.frequencies)]
            self._step(
                f"rope.rope:{op.frequencies.layout}", [out], [out], x=out, cos=cos, sin=sin, n_heads=op.n_heads,
                head_dim=width // op.n_heads, n_rot=2 * len(op.frequencies.frequencies), n_tokens=n,
            )  # fmt: skip
        elif isinstance(op, Attention):
            self._attention(op)
        elif isinstance(op, SwiGlu) and (gate := p.gate(i)):
            self._gate(op, *gate)
        elif isinstance(op, SwiGlu):
            a, b = p.buffer(op.gate), p.buffer(op.up)
            kind = self._kind(op.out)
            self._step(f"rows.swiglu:{kind}", [a, b], [out], a=a, b=b, out=out, n_columns=width, n_tokens=n)
        elif isinstance(op, Add):
            if i - 1 not in p.residual:
                a, b = p.buffer(op.a), p.buffer(op.b)
                self._step("rows.add", [a, b], [out], a=a, b=b, out=out, n_columns=width, n_tokens=n)
        elif isinstance(op, Pick):
            x = p.buffer(op.x)
            self._step("rows.gather", [x], [out], x=x, rows=self._in.rows, out=out, n_columns=width, n_tokens=n)

    def _count(self, value: Value) -> np.ndarray:
        return self._in.n_logits if value.picked else self._in.n_tokens

    def _linear(self, op: Linear, add: bool) -> None:
        p, weight = self._plan, op.weight
        x, out = self._records_of(op.x, fusion.form_for(weight, p.isa)), p.buffer(op.out)
        self._product(
            "linear", weight, op.x, out, x, weights=weight.data, bias=p.floats(op.bias) if op.bias else 0, add=add
        )

    def _gate(self, op: SwiGlu, gate: Linear, up: Linear) -> None:
        x, out = self._records_of(gate.x, fusion.form_for(gate.weight, self._plan.isa)), self._plan.buffer(op.out)
        kind = f":{self._kind_of_lanes(op.out)}"
        self._product("swiglu", gate.weight, gate.x, out, x, kind, gate=gate.weight.data, up=up.weight.data)

    def _product(
        self, name: str, weight: Tensor, x: Value, out: np.ndarray, records: np.ndarray, kind: str = "", **own: Any
    ) -> None:
        """A step of the kernel `name` for one token, or for more; weight: tells the type and shape of all weights."""
        _check(weight)
        arguments = {
            "row_bytes": _row_bytes(weight), "n_rows": weight.shape[0], "n_columns": weight.shape[1], "x": records,
            "out": out, "scratch": self._in.scratch, **own,
        }  # fmt: skip
        n = self._size(x)
        module, how = "matvec", f":{n}"
        if n > ROWWISE:
            module, how, arguments["n_tokens"] = "matmul", "", self._count(x)
            isa = self._plan.isa
            if n == MANY and isa.has_tiles and weight.type not in ("F16", "F32"):
                how = ":tiles"
            elif isa.dots_bfloats and weight.type == "BF16":
                how = ":bfloats"
            elif n == MANY and fusion.is_rounded(weight, isa):
                how = ":rounded"
        suffix = f"{how}{kind}" if module == "matvec" else f"{kind}{how}"
        self._step(f"{module}.{name}:{weight.type}{suffix}", [records], [out], **arguments)

    def _size(self, value: Value) -> int:
        """How many tokens a value has in this variant: a number up to ROWWISE, or FEW or MANY."""
        return self._n_logits if value.picked else self._n_tokens

    def _kind(self, value: Value, form: str = "") -> str:
        """The kind of rows that a value's form, or another, is in this variant."""
        form = form or self._plan.form(value)
        size = self._size(value)
        return form if form == "plain" or size <= ROWWISE else self._plan.buffers.lanes(form, size)

    def _kind_of_lanes(self, value: Value) -> str:
        """The same, where 16 tokens are written at a time: before rounded weights, large columns are kept apart."""
        kind, many = self._kind(value), self._size(value) == MANY
        return "apart_lanes" if many and kind == "byte_lanes" and value.number in self._plan.to_rounded else kind

    def _records_of(self, x: Value, form: str) -> np.ndarray:
        """A value as records; packs it if it was not made as such and is not packed already."""
        p = self._plan
        if p.form(x) == form:
            return p.buffer(x)
        records, key = p.buffers.packed(x.width, form), (x.width, form)
        if self._packed.get(key) != x.number:
            self._packed[key] = x.number
            a, n = p.buffer(x), self._count(x)
            kind = self._kind(x, form)
            self._step(f"rows.pack:{kind}", [a], [records], a=a, b=a, out=records, n_columns=x.width, n_tokens=n)
        return records

    def _attention(self, op: Attention) -> None:
        p, layout = self._plan, self._plan.layout
        q, k, v, out = (p.buffer(value) for value in (op.q, op.k, op.v, op.out))
        head_dim, v_dim = op.q.width // op.n_heads, op.v.width // op.n_kv_heads
        _check_heads(op, head_dim, v_dim)
        types, pages = f"{layout.k_type}:{layout.v_type}", layout.k_offset  # the latter stands for the cache
        shared = {
            "head_dim": head_dim, "v_dim": v_dim, "k_offset": layout.k_offset[op.layer],
            "v_offset": layout.v_offset[op.layer], "k_bytes": head_bytes(layout.k_type, head_dim),
            "v_bytes": head_bytes(layout.v_type, v_dim), "scratch": self._in.scratch, "n_tokens": self._in.n_tokens,
        }  # fmt: skip
        self._step(f"kv.save:{types}", [k, v], [pages], k=k, v=v, slots=self._in.slots, n_heads=op.n_kv_heads, **shared)
        partials, kind = p.buffers.partials(self._in.n_partials, op.n_heads, v_dim), self._kind(op.out)
        # blocks of many tokens may multiply bf16 where the result is rounded as much anyway
        how = ":bfloats" if p.isa.dots_bfloats and kind in ("byte_lanes", "bfloat_lanes") else ""
        self._step(
            f"attention.attend:{types}:{kind}{how}", [q, pages], [out, partials], q=q, out=out, blocks=self._in.blocks,
            n_heads=op.n_heads, n_kv_heads=op.n_kv_heads, scale=float(op.scale), window=op.window, partials=partials,
            n_blocks=self._in.n_blocks, **shared,
        )  # fmt: skip
        if self._split:
            self._step(
                f"attention.merge:{kind}", [partials], [out], out=out, splits=self._in.splits, n_heads=op.n_heads,
                v_dim=v_dim, partials=partials, scratch=self._in.scratch, n_splits=self._in.n_splits,
                n_tokens=self._in.n_tokens,
            )  # fmt: skip


def _check_heads(op: Attention, head_dim: int, v_dim: int) -> None:
    size = 4 * (MAX_TASK_ROWS * (head_dim + v_dim + PAGE + 17 + 16) + PAGE * max(head_dim, v_dim + 16))
    if op.n_heads // op.n_kv_heads > MAX_TASK_ROWS or size > SCRATCH:
        raise PlanError(f"attention heads of {head_dim} dimensions, {op.n_heads} to {op.n_kv_heads}: too large")


def _check(tensor: Tensor) -> None:
    if tensor.type not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise PlanError(f"tensor {tensor.name} has type {tensor.type}, which has no kernels yet; ggrun runs {known}")


def _row_bytes(tensor: Tensor) -> int:
    return tensor.n_bytes // tensor.shape[0]

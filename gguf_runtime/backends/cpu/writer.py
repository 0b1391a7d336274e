"""Steps of the CPU: kernels, their arguments, and where threads must wait for each other; operations/ says which."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from ...operations import Op, Value, describe
from ..errors import PlanError
from .buffers import FEW, MANY, ROWWISE, BufferKind
from .plan import CpuPlan


class KernelCall(NamedTuple):
    """A kernel to run; `barrier` where all threads must have finished what came before."""

    kernel: str
    arguments: dict[str, Any]
    barrier: bool


def size_of(n_tokens: int) -> int:
    """The size of batch that n_tokens are."""
    return n_tokens if n_tokens <= ROWWISE else FEW if n_tokens <= FEW else MANY


class CpuWriter:
    """Writes the steps of one variant, keeping account of who reads and writes which memory.

    n_tokens, n_logits: sizes of batch (see FEW); split: whether the attention of some tokens is cut into spans.
    """

    def __init__(self, plan: CpuPlan, n_tokens: int, n_logits: int, split: bool) -> None:
        self.plan, self.inputs, self.split = plan, plan.inputs, split
        self._n_tokens, self._n_logits = n_tokens, n_logits
        self.steps: list[KernelCall] = []
        self._held: dict[int, Hashable] = {}  # memory → what of a value it holds
        self._read: set[int] = set()  # memory touched since the threads last met
        self._written: set[int] = set()

    def step(self, kernel: str, of: Value, reads: list[Any], writes: list[Any], **arguments: Any) -> None:
        """Add a step for as many tokens as `of` has; reads, writes: the memory that it touches."""
        r, w = {id(x) for x in reads}, {id(x) for x in writes}
        barrier = bool(r & self._written or w & (self._read | self._written))
        if barrier:
            self._read, self._written = set(), set()
        self._read |= r
        self._written |= w
        if self.size(of) <= ROWWISE:
            arguments = {name: self.plan.buffers.rowwise(value) for name, value in arguments.items()}
        self.steps.append(KernelCall(kernel, arguments, barrier))

    def count(self, value: Value) -> np.ndarray:
        """Where a batch tells how many rows a value has."""
        return self.inputs.n_tokens if value.rows == "token" else self.inputs.n_logits

    def size(self, value: Value) -> int:
        """How many rows a value has in this variant: a number up to ROWWISE, or FEW or MANY."""
        return self._n_tokens if value.rows == "token" else self._n_logits

    def kind(self, value: Value, form: str = "") -> str:
        """The kind of rows that a value's form, or another, is in this variant."""
        form = form or self.plan.form(value)
        size = self.size(value)
        return form if form == "plain" or size <= ROWWISE else self.plan.buffers.lanes(form, size)

    def kind_of_lanes(self, value: Value) -> str:
        """The same, where 16 tokens are written at a time: before rounded weights, large columns are kept apart."""
        kind, many = self.kind(value), self.size(value) == MANY
        return "apart_lanes" if many and kind == "byte_lanes" and value.number in self.plan.to_rounded else kind

    def holds(self, memory: np.ndarray, what: Hashable) -> bool:
        """Whether memory has this already; from now on it does."""
        held = self._held.get(id(memory)) == what
        self._held[id(memory)] = what
        return held

    def records_of(self, x: Value, form: str) -> np.ndarray:
        """A value as records; packs it if it was not made as such and is not packed already."""
        plan = self.plan
        if plan.form(x) == form:
            return plan.buffer(x)
        records = plan.buffers.packed(BufferKind(x.size, form))
        if not self.holds(records, x.number):
            a, kind = plan.buffer(x), self.kind(x, form)
            self.step(
                f"rows.pack:{kind}", x, [a], [records],
                a=a, b=a, out=records, n_columns=x.size, n_tokens=self.count(x),
            )  # fmt: skip
        return records


def unknown(op: Op, why: str = "") -> PlanError:
    return PlanError(f"{describe(op)}: the CPU has no kernel for that{why} yet")

"""Where the values of a graph are on the CPU, and what is computed together."""

from __future__ import annotations

import numpy as np

from ...graph import Add, Graph, Input, Linear, Rope, Value, values_read
from ...kernels.isa import Isa
from ...loader import Tensor
from ..errors import PlanError
from ..floats import floats
from ..pages import PageLayout
from . import fusion
from .buffers import Buffers
from .inputs import Inputs


class Plan:
    """Gives every value of a graph its buffer; steps.py, every operation its kernels.

    residual: products that are added to a value in place, by their index, and that value. to_rounded: see fusion.
    """

    def __init__(self, graph: Graph, layout: PageLayout, inputs: Inputs, buffers: Buffers, isa: Isa) -> None:
        self.isa, self.buffers = isa, buffers
        self.ops, self.layout, self.inputs = graph.ops, layout, inputs
        self.residual, self._gates = fusion.residuals(graph.ops), fusion.gates(graph.ops)
        self._forms, self.to_rounded = fusion.forms(graph.ops, isa), fusion.to_rounded(graph.ops, isa)
        self._buffers = self._place()
        self._converted: dict[str, np.ndarray] = {}
        self.result = self._buffers[graph.result.number]
        first = graph.ops[0]
        self.input = self._buffers[first.out.number] if isinstance(first, Input) else None

    def reads(self, i: int) -> list[Value]:
        """The values that operation i reads; products that are part of a gate read nothing, as the gate does."""
        if i in self._gates:
            return [self._gates[i][0].x]
        return [] if self.is_part(i) else values_read(self.ops[i])

    def is_part(self, i: int) -> bool:
        """Whether operation i is a product that a gate computes itself."""
        return any(self.ops[i] in gate for gate in (self._gates.get(i + 1), self._gates.get(i + 2)) if gate)

    def _place(self) -> dict[int, np.ndarray]:
        """A buffer for each value; values that do not live at the same time share one."""
        last_use = {v.number: i for i in range(len(self.ops)) for v in self.reads(i)}
        placed: dict[int, np.ndarray] = {}
        free = self.buffers.all()
        for i, op in enumerate(self.ops):
            dying = [v for v in dict.fromkeys(self.reads(i)) if last_use[v.number] == i]
            if i in self.residual:  # a product added to the residual: in place
                placed[op.out.number] = placed[self.residual[i].number]
            elif isinstance(op, Add) and i - 1 in self.residual:
                residual = self.residual[i - 1]
                placed[op.out.number] = placed[residual.number]
                dying = [v for v in dying if v != residual and v != self.ops[i - 1].out]
            elif isinstance(op, Rope):
                if op.x not in dying:
                    raise PlanError("a value is used again after its rotation")
                placed[op.out.number] = placed[op.x.number]
                dying = []
            elif not self.is_part(i):
                key = op.out.width, self.form(op.out)
                spare = free.get(key)
                placed[op.out.number] = spare.pop() if spare else self.buffers.more(*key)
            for v in dying:
                free.setdefault((v.width, self.form(v)), []).append(placed[v.number])
        return placed

    def buffer(self, value: Value) -> np.ndarray:
        return self._buffers[value.number]

    def form(self, value: Value) -> str:
        """plain, or a form of records, of one token: how a value is made; for those of more, see Buffers.lanes."""
        return self._forms.get(value.number, "plain")

    def gate(self, i: int) -> tuple[Linear, Linear] | None:
        """The two products that operation i computes itself, if it is such a gate."""
        return self._gates.get(i)

    def floats(self, tensor: Tensor) -> np.ndarray:
        """A vector of weights as f32."""
        if tensor.name not in self._converted:
            self._converted[tensor.name] = floats(tensor)
        return self._converted[tensor.name]

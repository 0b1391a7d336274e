"""What a graph becomes on the CPU, for any batch: what is computed together, and where values lie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ... import memory_plan
from ...fusion import Fused, Fusions, GatedExperts, Single, fuse
from ...graph import Graph
from ...kernels.isa import Isa
from ...loader import Tensor
from ...operations import Input, Norm, Rope, Route, Value
from ..floats import floats
from ..pages import PageLayout
from ..states import StateMemory
from . import forms
from .buffers import BufferKind, Buffers
from .inputs import CpuInputs, PagePlaces


class CpuPlan:
    """Gives every value of a graph its buffer; operations.py, every operation its kernels.

    to_rounded: see forms.
    """

    def __init__(
        self,
        graph: Graph,
        layouts: tuple[PageLayout, PageLayout],
        states: StateMemory | None,
        inputs: CpuInputs,
        buffers: Buffers,
        isa: Isa,
    ) -> None:
        """layouts: of pages, and of pages of layers that see only a window."""
        self.isa, self.buffers, self.states = isa, buffers, states
        self.inputs, self._layouts, self.kv = inputs, layouts, graph.kv
        self.fused = fuse(graph.ops, Fusions(forms.can_gate, forms.can_gate_experts))
        self.routes = {op.out.number: op for op in graph.ops if isinstance(op, Route)}
        self._forms, self.to_rounded = forms.forms(graph.ops, isa), forms.to_rounded(graph.ops, isa)
        for item in self.fused:
            if isinstance(item, GatedExperts):
                self._forms[item.op.out.number] = forms.form_for(item.reader.weight, isa)
        self._buffers = memory_plan.plan(self.fused, buffers.pool, self._kind, _in_place)
        self._converted: dict[str, np.ndarray] = {}
        self.result = self.buffer(graph.result)
        first = graph.ops[0]
        self.input = self.buffer(first.out) if isinstance(first, Input) else None

    def places(self, slot: int) -> tuple[PageLayout, PagePlaces]:
        """How pages with a slot are laid out, and where a batch's are."""
        layout, window_layout = self._layouts
        if slot in window_layout.k_offset:
            return window_layout, self.inputs.window_places
        return layout, self.inputs.places

    def buffer(self, value: Value) -> np.ndarray:
        return self._buffers[value.number][0]

    def form(self, value: Value) -> str:
        """plain, or a form of records, of one token: how a value is made; for those of more, see Buffers.lanes."""
        return self._forms.get(value.number, "plain")

    def floats(self, tensor: Tensor) -> np.ndarray:
        """A vector of weights as f32."""
        if tensor.name not in self._converted:
            self._converted[tensor.name] = floats(tensor)
        return self._converted[tensor.name]

    def n_experts(self, route: Value) -> int:
        """How many experts there are for a route to choose from."""
        op = self.routes[route.number]
        return -(-op.logits.size // op.share)

    def made(self, tensor: Tensor, how: str, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What `make` makes of a tensor's numbers; how: its name, where a tensor is needed in several ways."""
        key = f"{tensor.name} {how}"
        if key not in self._converted:
            self._converted[key] = make(floats(tensor))
        return self._converted[key]

    def _kind(self, item: Fused) -> BufferKind:
        (value,) = item.makes
        if isinstance(item, GatedExperts):
            return BufferKind(value.width, self.form(value), value.heads, self.n_experts(item.gate.route))
        return BufferKind(value.size, self.form(value))


def _in_place(item: Fused) -> Value | None:
    """What an operation's kernel can write over."""
    op = item.op if isinstance(item, Single) else None
    return op.x if isinstance(op, Rope) or (isinstance(op, Norm) and op.x.heads > 1) else None

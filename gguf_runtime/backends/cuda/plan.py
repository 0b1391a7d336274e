"""From a graph to the GPU's launches: three lists of them, for batches of one token, of few and of many.

One token: products straight from quantised weights, with norms, activations and sums fused in. Few: the same, but
norms for themselves. Many: a kernel that unpacks weights in registers, where the GPU has Hopper's tensor cores
(prompts.py); elsewhere they are unpacked to halves, a part at a time, and multiplied by cuBLAS. Each list
is captured as a CUDA graph for each number of tokens that it is launched for, unless cuBLAS is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...graph import Add, Embed, Graph, Input, Norm, Pick, SwiGlu
from ...kernels.cuda.formats import FORMATS, TILE_ROWS
from ...loader import Tensor
from ..errors import PlanError
from ..pages import PageLayout
from .attention import AttentionWriter
from .device import Launch
from .fuse import AddedProduct, Attend, Fused, Gate, Plain, Products, Rows, fuse
from .inputs import Inputs
from .launches import FEW, MAX_LOGITS, Launches, Token, Workspace, rows_of_few
from .products import ProductWriter
from .sizes import tiles_of
from .weights import Matrix, matrix_type, n_columns

_MOST_GRAPHS = 64  # of a plan


class Plan:
    """`one`, `few`, `many`: what to launch, in order, for a batch. `input`, `result`: rows of what comes and goes."""

    def __init__(
        self, graph: Graph, space: Workspace, layout: PageLayout, inputs: Inputs,
        matrix: Callable[[Sequence[Tensor]], Matrix],
    ) -> None:  # fmt: skip
        """matrix: as Launches has it."""
        fused = fuse(graph.ops)
        self._device = space.device
        self._to = to = Launches(fused, space, inputs, matrix)
        self._products, self._attention = ProductWriter(to), AttentionWriter(to, layout)
        self._made_by_reader = _norms_made_by_readers(fused)
        for item in fused:
            self._write(item)
        self.one, self.few, self.many = to.one, to.few, to.many
        self._graphs: dict[tuple[int, ...], Callable[[], None]] = {}
        first = graph.ops[0]
        self.input = to.rows[first.out.number] if isinstance(first, Input) else None
        self.result = to.rows[graph.result.number]

    def run_few(self, n_rows: int) -> None:
        """Launch what few tokens need; n_rows: rows_of_few of them."""
        self._run((n_rows,), self.one if n_rows == 1 else self.few)

    def run_many(self, n_rows: int, n_logits: int, n_tasks: int) -> None:
        """Launch what many tokens need; n_rows: rows_of_many of them; n_tasks: of attention."""
        n_logits = rows_of_few(n_logits) if n_logits <= FEW else MAX_LOGITS
        self._to.n_logits, self._to.n_tasks = n_logits, n_tasks
        self._run((n_rows, n_logits, n_tasks), self.many)

    def _run(self, shape: tuple[int, ...], launches: Sequence[Launch]) -> None:
        """Launch for the first of these numbers: one by one the first time, which compiles kernels, then as a graph."""
        if shape in self._graphs:
            self._graphs[shape]()
            return

        def launch_all() -> None:
            for launch in launches:
                launch(shape[0])

        launch_all()
        if launches is self.many and not self._to.many_as_graph:
            return
        if len(self._graphs) == _MOST_GRAPHS:
            self._graphs.pop(next(iter(self._graphs)))
        self._graphs[shape] = self._device.capture(launch_all)

    def _write(self, item: Fused) -> None:
        if isinstance(item, Products):
            self._products.products(item, item.linears, self._to.rows[item.makes[0].number], add=False)
        elif isinstance(item, AddedProduct):
            self._products.products(item, (item.linear,), self._to.rows[item.out.number], add=True)
        elif isinstance(item, Gate):
            self._products.gate(item)
        elif isinstance(item, Attend):
            self._attention.attend(item)
        elif isinstance(item, Plain):
            self._plain(item)

    def _plain(self, item: Plain) -> None:
        op, device = item.op, self._device
        out, width = self._to.rows[op.out.number], op.out.width
        arguments: tuple[Any, ...]
        if isinstance(op, Embed):
            self._embed(op, out)
        elif isinstance(op, Norm):
            self._norm(op, out)
        elif isinstance(op, SwiGlu):
            a, b = self._to.rows[op.gate.number], self._to.rows[op.up.number]
            if a.stride != b.stride or a.halves or b.halves:
                raise PlanError("an activation of values that do not lie side by side: not on the GPU yet")
            self._to.all(self._to.activation(a.at, b.at, a.stride, out, width), op.out.picked)
        elif isinstance(op, Add):
            a, b, add = self._to.rows[op.a.number], self._to.rows[op.b.number], device.kernel("add")
            if a.halves or b.halves or a.stride != width:
                raise PlanError("a sum of values other than results of products: not on the GPU yet")
            arguments = a.at, b.at, b.stride, out.at, width
            self._to.all(lambda n: add((tiles_of(width, 256), n), 256, arguments), op.out.picked)
        elif isinstance(op, Pick):
            x, gather = self._to.rows[op.x.number], device.kernel("gather")
            arguments = x.at, self._to.inputs.rows, out.at, width, self._to.inputs.n_logits
            self._to.all(lambda n: gather((n,), 1024, arguments), picked=True)

    def _norm(self, op: Norm, out: Rows) -> None:
        x, weight, kernel = self._to.rows[op.x.number], self._to.vector(op.weight), self._device.kernel("rms_norm")
        if x.halves or op.out.width % 4:
            raise PlanError(f"a norm over {op.out.width} columns: not on the GPU yet")
        rest = x.at, weight, out.at, op.out.width, out.stride, np.float32(op.eps), self._to.count(op.x.picked)

        def launch(n: int) -> None:
            kernel((n,), 512, rest)

        if op.out.number in self._made_by_reader:
            self._to.norms[op.out.number] = Token(x.at, weight, op.eps)
        else:
            self._to.one.append(launch)
        self._to.batches(launch, op.x.picked)

    def _embed(self, op: Embed, out: Rows) -> None:
        kind, width = matrix_type(op.table), op.out.width
        kernel, n_steps = self._device.kernel(f"embed<{kind}>"), n_columns(op.table) // FORMATS[kind].step
        if width % 8:
            raise PlanError(f"an embedding of {width} columns: not on the GPU yet")

        def launch(n: int) -> None:
            n_tiles = tiles_of(n, TILE_ROWS) * n_steps
            arguments = self._to.inputs.rows_of_embedding, n_tiles, 0, n_steps, n, out.at, width, width
            kernel((tiles_of(n_tiles, 4),), 128, arguments)

        self._to.all(launch)


def _norms_made_by_readers(fused: Sequence[Fused]) -> set[int]:
    """Results of norms that only products read: for one token, each of them makes the norm itself."""
    made = {item.op.out.number for item in fused if isinstance(item, Plain) and isinstance(item.op, Norm)}
    for item in fused:
        for value in item.reads:
            if not isinstance(item, Products | Gate) or value.width % 128:
                made.discard(value.number)
    return made

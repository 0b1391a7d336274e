"""From a graph to the GPU's launches: three lists of them, for batches of one token, of few and of many.

One token: products straight from quantised weights, with norms, activations and sums fused in. Few: the same, but
norms for themselves. Many: a kernel that unpacks weights in registers, where the GPU has Hopper's tensor cores
(prompts.py); elsewhere they are unpacked to halves, a part at a time, and multiplied by cuBLAS. Each list
is captured as a CUDA graph for each number of tokens that it is launched for, unless cuBLAS is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...graph import Graph
from ...loader import Tensor
from ...operations import Input
from ..pages import PageLayout
from .device import Launch
from .inputs import Inputs
from .launches import FEW, MAX_LOGITS, Launches, Workspace, rows_of_few
from .operations import Writer
from .places import fused_for_gpu
from .weights import Matrix

_MOST_GRAPHS = 64  # of a plan


class Plan:
    """`one`, `few`, `many`: what to launch, in order, for a batch. `input`, `result`: rows of what comes and goes."""

    def __init__(
        self, graph: Graph, space: Workspace, layout: PageLayout, inputs: Inputs,
        matrix: Callable[[Sequence[Tensor]], Matrix],
    ) -> None:  # fmt: skip
        """matrix: as Launches has it."""
        fused = fused_for_gpu(graph.ops)
        self._device = space.device
        self._to = to = Launches(fused, space, inputs, matrix)
        writer = Writer(fused, to, layout)
        for item in fused:
            writer.write(item)
        self.decode, self.small_batch, self.prefill = to.decode, to.small_batch, to.prefill
        self._graphs: dict[tuple[int, ...], Callable[[], None]] = {}
        first = graph.ops[0]
        self.input = to.rows[first.out.number] if isinstance(first, Input) else None
        self.result = to.rows[graph.result.number]

    def run_few(self, n_rows: int) -> None:
        """Launch what few tokens need; n_rows: rows_of_few of them."""
        self._run((n_rows,), self.decode if n_rows == 1 else self.small_batch)

    def run_many(self, n_rows: int, n_logits: int, n_tasks: int) -> None:
        """Launch what many tokens need; n_rows: rows_of_many of them; n_tasks: of attention."""
        n_logits = rows_of_few(n_logits) if n_logits <= FEW else MAX_LOGITS
        self._to.n_logits, self._to.n_tasks = n_logits, n_tasks
        self._run((n_rows, n_logits, n_tasks), self.prefill)

    def _run(self, shape: tuple[int, ...], launches: Sequence[Launch]) -> None:
        """Launch for the first of these numbers: one by one the first time, which compiles kernels, then as a graph."""
        if shape in self._graphs:
            self._graphs[shape]()
            return

        def launch_all() -> None:
            for launch in launches:
                launch(shape[0])

        launch_all()
        if launches is self.prefill and not self._to.many_as_graph:
            return
        if len(self._graphs) == _MOST_GRAPHS:
            self._graphs.pop(next(iter(self._graphs)))
        self._graphs[shape] = self._device.capture(launch_all)

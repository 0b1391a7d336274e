"""Runs a plan's launches: one by one the first time that a batch has some size, then as a CUDA graph.

One token: products straight from quantised weights, with norms, activations and sums fused in. Few: the same, but
norms for themselves. Many: a kernel that unpacks weights in registers, where the GPU has Hopper's tensor cores
(prefill.py); elsewhere they are unpacked to halves, a part at a time, and multiplied by cuBLAS, which cannot be part of
a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...operations import Pool, Stateful
from .launches import FEW, MAX_LOGITS, Launch, Multiply, Sizes
from .operations import write
from .places import Rows
from .plan import CudaPlan
from .workspace import rows_of_few

_MOST_SIZES = 64  # for which it is kept what to launch


class CudaProgram:
    """A graph on a GPU. input, result: rows of what comes and goes."""

    def __init__(self, plan: CudaPlan) -> None:
        """Compiles kernels that any batch needs, and has all weights brought. Raises PlanError."""
        self._plan, self._device = plan, plan.device
        self.input: Rows | None = plan.input
        self.result: Rows = plan.result
        self._by_sequence = any(isinstance(op, Stateful | Pool) for op in plan.graph.ops)
        self._runs: dict[Sizes, Callable[[], None]] = {}
        for sizes in Sizes(1, 1), Sizes(FEW, FEW), Sizes(plan.space.n_rows, 1, 1, few=False):
            self._device.compile([work for work in write(plan, sizes) if isinstance(work, Launch)])

    def run_few(self, n_rows: int) -> None:
        """Launch what few tokens need; n_rows: rows_of_few of them."""
        self._run(Sizes(n_rows, n_rows, n_chunks=n_rows if self._by_sequence else 1))

    def run_many(self, n_rows: int, n_logits: int, n_tasks: int, n_chunks: int) -> None:
        """Launch what many tokens need; n_rows: rows_of_many of them; n_tasks: of attention."""
        n_logits = rows_of_few(n_logits) if n_logits <= FEW else MAX_LOGITS
        n_chunks = rows_of_few(n_chunks) if self._by_sequence else 1
        self._run(Sizes(n_rows, n_logits, n_tasks, n_chunks, few=False))

    def _run(self, sizes: Sizes) -> None:
        if sizes in self._runs:
            self._runs[sizes]()
            return
        run = partial(self._device.run, work := write(self._plan, sizes))
        run()
        if len(self._runs) == _MOST_SIZES:
            self._runs.pop(next(iter(self._runs)))
        held = not any(isinstance(item, Multiply) for item in work)
        self._runs[sizes] = self._device.capture(run) if held else run

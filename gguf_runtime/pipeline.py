"""The pipeline: stages, each some layers on one device, through which batches pass.

While a stage works on one batch, the stages before it work on the next ones: so that CPU and GPU are busy at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .backends import Backend, Batch

if TYPE_CHECKING:  # loaded once there are several stages
    from concurrent.futures import Future, ThreadPoolExecutor


class Pipeline:
    """Stages in the order of the layers. The first one embeds, the last one gives logits."""

    def __init__(self, stages: Sequence[Backend]) -> None:
        self.stages = stages
        self.pools = [stage.pool for stage in stages if stage.has_cache]
        self.max_logits = min((stage.max_logits for stage in stages if stage.max_logits), default=None)
        self._workers: list[ThreadPoolExecutor] = []

    def run(self, batches: Sequence[Batch]) -> Generator[np.ndarray]:
        """Logits of each batch, f32[n_logits, n_vocab], in order; what a batch puts in the cache, the next may need."""
        if len(self.stages) > 1 and len(batches) > 1:
            yield from self._overlapped(batches)
        else:
            yield from map(self._one_by_one, batches)

    def step_cost(self, n_tokens: int) -> float:
        """About what a step of n tokens costs, in steps of one."""
        return max(stage.step_cost(n_tokens) for stage in self.stages)

    def close(self) -> None:
        for worker in self._workers:
            worker.shutdown()
        for stage in self.stages:
            stage.close()

    def _one_by_one(self, batch: Batch) -> np.ndarray:
        x = self.stages[0].run(batch)
        for stage in self.stages[1:]:
            x = stage.run(batch, x)
        return x

    def _overlapped(self, batches: Sequence[Batch]) -> Generator[np.ndarray]:
        """Each stage has a thread, which runs the batches in order, each as soon as the stage before is through."""
        from concurrent.futures import ThreadPoolExecutor, wait

        if not self._workers:
            self._workers = [ThreadPoolExecutor(1, f"ggrun-stage-{i}") for i in range(len(self.stages))]
        jobs: list[list[Future[np.ndarray]]] = []
        try:
            for batch in batches:
                chain: list[Future[np.ndarray]] = []
                jobs.append(chain)
                for stage, worker in zip(self.stages, self._workers, strict=True):
                    chain.append(worker.submit(_run, stage, batch, chain[-1] if chain else None))
            for chain in jobs:
                yield chain[-1].result()
                chain.clear()
        finally:  # after an error or an interrupt: leave nothing behind that still runs
            wait([job for chain in jobs for job in chain if not job.cancel()])


def _run(stage: Backend, batch: Batch, before: Future[np.ndarray] | None) -> np.ndarray:
    return stage.run(batch, before.result() if before else None)

"""The pipeline: stages, each some layers on one device, through which batches pass.

While a stage works on one batch, the stages before it work on the next ones, where there are several devices: so that
CPU and GPU are busy at once. A stage that takes fewer tokens at once than those before it gets a batch in parts, and so
do all after it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ..backends import Backend, Batch, Chunk, PassResult, cut

if TYPE_CHECKING:  # loaded once there are several stages
    from concurrent.futures import Future, ThreadPoolExecutor


class Pipeline:
    """Stages in the order of the layers. The first one embeds, the last one gives logits."""

    def __init__(self, stages: Sequence[Backend]) -> None:
        self.stages = stages
        self.memories = [stage.memory for stage in stages if stage.memory]
        self.windows = [stage.windows for stage in stages if stage.windows]
        self.states = [stage.states for stage in stages if stage.states]
        self.n_batch = max(stage.n_batch for stage in stages)
        self._max_logits = min((stage.max_logits for stage in stages if stage.max_logits), default=None)
        self.n_alike = min(stage.n_alike for stage in stages)
        self._workers: list[ThreadPoolExecutor] = []

    def batches(self, chunks: Sequence[Chunk]) -> list[Batch]:
        """Cut what is to be run into batches of as many tokens as a pass can have."""
        return list(cut(chunks, self.n_batch, self._max_logits))

    def run(self, batches: Sequence[Batch]) -> Generator[np.ndarray]:
        """Logits of each batch, f32[n_logits, n_vocab], in order; what a batch puts in the cache, the next may need."""
        at_once = min(stage.n_batch for stage in self.stages)
        largest = max((batch.n_tokens for batch in batches), default=0)
        devices = {stage.device(min(largest, stage.n_batch)) for stage in self.stages}
        if len(devices) > 1 and (len(batches) > 1 or largest > at_once):
            yield from self._overlapped(batches)
        else:
            for batch in batches:
                yield _joined(self._through(0, batch, None, self._start))

    def step_cost(self, n_tokens: int) -> float:
        """About what a step of n tokens costs, in steps of one."""
        return max(stage.step_cost(n_tokens) for stage in self.stages)

    def close(self) -> None:
        for worker in self._workers:
            worker.shutdown()
        for stage in self.stages:
            stage.close()

    def _start(self, i: int, batch: Batch, before: PassResult | None) -> PassResult:
        return self.stages[i].start(batch, before() if before else None)

    def _through(
        self, i: int, batch: Batch, before: PassResult | None,
        start: Callable[[int, Batch, PassResult | None], PassResult],
    ) -> list[PassResult]:
        """What the stages from number i on make of a batch, in parts where one takes fewer tokens."""
        if i == len(self.stages):
            return [before] if before else []
        results, first = [], 0
        for part in cut(batch.chunks, self.stages[i].n_batch):
            rows = before and _rows(before, first, first + part.n_tokens)
            results += self._through(i + 1, part, start(i, part, rows), start)
            first += part.n_tokens
        return results

    def _overlapped(self, batches: Sequence[Batch]) -> Generator[np.ndarray]:
        """Each stage has a thread, which starts on the batches in order, on each once the stage before is through."""
        from concurrent.futures import ThreadPoolExecutor, wait

        if not self._workers:
            self._workers = [ThreadPoolExecutor(1, f"ggrun-stage-{i}") for i in range(len(self.stages))]
        jobs: list[list[Future[PassResult]]] = []

        def start(i: int, batch: Batch, before: PassResult | None) -> PassResult:
            jobs[-1].append(job := self._workers[i].submit(self._start, i, batch, before))
            return lambda: job.result()()

        try:
            results = []
            for batch in batches:
                jobs.append([])
                results.append(self._through(0, batch, None, start))
            for parts, chain in zip(results, jobs, strict=True):
                yield _joined(parts)
                parts.clear()
                chain.clear()
        finally:  # after an error or an interrupt: leave nothing behind that still runs
            started, _ = wait([job for chain in jobs for job in chain if not job.cancel()])
            for job in started:
                with suppress(Exception):
                    job.result()()


def _rows(result: PassResult, first: int, last: int) -> PassResult:
    return lambda: result()[first:last]


def _joined(results: Sequence[PassResult]) -> np.ndarray:
    parts = [result() for result in results]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

"""Several answers at once: their tokens share every step, so that each weight is read once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from time import perf_counter

from .engine import Engine
from .generation import Generation


def generate_together(engine: Engine, answers: Iterable[Generation], n_parallel: int) -> Iterator[Generation]:
    """Make answers, n_parallel at a time, a new one beginning where another ends; gives each once it is done."""
    waiting = iter(answers)
    running: list[Generation] = []
    while running := running + list(islice(waiting, n_parallel - len(running))):
        with engine.turn():
            start = perf_counter()
            chunks = [answer.chunk() for answer in running]
            logits = engine.step(chunks)
            at = 0
            for answer, chunk in zip(running, chunks, strict=True):
                answer.take(logits[at : at + chunk.n_logits], start)
                at += chunk.n_logits
        yield from (answer for answer in running if answer.done)
        running = [answer for answer in running if not answer.done]

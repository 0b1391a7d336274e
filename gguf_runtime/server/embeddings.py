"""Has texts embedded or ranked, for the routes of all APIs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Raw

from .engine import TRIES
from .http import Call, encode
from .metrics import Outcome
from .models import Model
from .protocol import Embedded, Failed
from .turns import Turn
from .vocabulary import EmbeddingRequest, Failure, Timings


class Embeddings:
    """What a model has made of texts."""

    def __init__(self, model: Model, rows: list[bytes], timings: Timings) -> None:
        """rows: of each text, f32."""
        self.model, self.rows, self.timings = model, rows, timings

    @property
    def scores(self) -> list[float]:
        """Of each text, where they were ranked."""
        return [memoryview(row).cast("f")[0] for row in self.rows]

    async def vectors(self) -> list[Raw]:
        """Of each text a list of numbers, as JSON."""
        found = []
        for row in self.rows:
            found.append(Raw(encode([*memoryview(row).cast("f")])))
            await asyncio.sleep(0)  # there may be many: others' answers come in between
        return found


async def embed(call: Call, request: EmbeddingRequest) -> Embeddings:
    """Have texts embedded, or ranked. Raises Failure."""
    service = call.service
    model, outcome, timings = service.models.find(request.model), Outcome.CANCELLED, Timings()
    try:
        async with asyncio.timeout(service.max_seconds):
            made = await _made(call, model, request, timings)
        outcome = Outcome.DONE
    except TimeoutError:
        outcome = Outcome.FAILED
        most = f"{service.max_seconds:g} seconds"
        raise Failure("timeout", f"the embedding took longer than {most}, which is as long as it may") from None
    except Failure:
        outcome = Outcome.FAILED
        raise
    finally:
        service.metrics.answered(timings, outcome)
        call.http.scope["ggrun.costs"] = [(model.name, timings)]
    return Embeddings(model, made.rows, timings)


async def _made(call: Call, model: Model, request: EmbeddingRequest, timings: Timings) -> Embedded:
    """Sets the timings as it goes on."""
    start = time.monotonic()
    async with _turn(model, call.client, request.priority):
        begun = time.monotonic()
        timings.queue_seconds = begun - start
        async with call.service.models.use(model, request.keep_alive):
            timings.load_seconds = time.monotonic() - begun
            _check(model, request)
            made = await _asked(model, request)
    timings.n_prompt, timings.prompt_seconds = made.n_tokens, made.seconds
    return made


@asynccontextmanager
async def _turn(model: Model, client: str, priority: int) -> AsyncIterator[None]:
    """Among those who want something of the model."""
    begun = asyncio.Event()
    turn = Turn(client, priority, begun.set)
    model.turns.check(1)
    model.turns.ask(turn)
    try:
        await begun.wait()
        yield
    finally:
        model.turns.end(turn)


def _check(model: Model, request: EmbeddingRequest) -> None:
    """Raises Failure for what the model does not do, or does not know."""
    if request.query is None and model.pooling == "rank":
        raise Failure("invalid", f"{model.name} is a reranker, which gives no embeddings: ask /v1/rerank")
    for text in request.texts:
        if not isinstance(text, str):
            model.texts.check(text, "input")


async def _asked(model: Model, request: EmbeddingRequest) -> Embedded:
    for n_tries in range(1, TRIES + 1):
        found = await _asked_once(model, request)
        if isinstance(found, Embedded):
            return found
        if not found.again or n_tries == TRIES:
            raise Failure(found.kind, found.message)
    raise AssertionError


async def _asked_once(model: Model, request: EmbeddingRequest) -> Embedded | Failed:
    engine = model.engine
    answer: asyncio.Future[Embedded | Failed] = asyncio.get_running_loop().create_future()
    id = engine.embed(
        lambda found: None if answer.done() else answer.set_result(found), request.texts, request.query, request.options
    )
    try:
        return await answer
    finally:
        engine.cancel(id)  # does nothing to what is done

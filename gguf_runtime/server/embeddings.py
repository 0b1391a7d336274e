"""Has texts embedded or ranked, for the routes of all APIs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Raw

from .engine import TRIES
from .http import ApiCall, encode
from .metrics import Outcome
from .models import ServedModel
from .protocol import Embedded, Failed
from .turns import Turn
from .vocabulary import EmbeddingRequest, Failure, Timings


class Embeddings:
    """What a model has made of texts."""

    def __init__(self, model: ServedModel, rows: list[bytes], width: int, timings: Timings) -> None:
        """rows: of each text, f32, or so many numbers for each of its tokens."""
        self.model, self.rows, self.width, self.timings = model, rows, width, timings

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

    async def token_vectors(self) -> list[list[Raw]]:
        """Of each text a vector for each of its tokens; one for all where they are pooled."""
        found = []
        for row in self.rows:
            numbers = memoryview(row).cast("f")
            starts = range(0, len(numbers), self.width)
            found.append([Raw(encode([*numbers[start : start + self.width]])) for start in starts])
            await asyncio.sleep(0)
        return found


async def embed(call: ApiCall, request: EmbeddingRequest, *, per_token: bool = False) -> Embeddings:
    """Have texts embedded, or ranked. per_token: vectors of tokens will do too. Raises Failure."""
    service = call.service
    if request.query is None and (pooling := service.policy.pooling):
        if pooling == "none" and not per_token:
            raise Failure("invalid", "with --pooling none there are vectors of tokens alone: ask /embedding")
        request.options["pooling"] = pooling
    model, outcome, timings = service.models.find(request.model), Outcome.CANCELLED, Timings()
    try:
        async with asyncio.timeout(service.policy.max_seconds):
            made = await _made(call, model, request, timings)
        outcome = Outcome.DONE
    except TimeoutError:
        outcome = Outcome.FAILED
        most = f"{service.policy.max_seconds:g} seconds"
        raise Failure("timeout", f"the embedding took longer than {most}, which is as long as it may") from None
    except Failure:
        outcome = Outcome.FAILED
        raise
    finally:
        service.metrics.answered(timings, outcome)
        call.http.scope["ggrun.costs"] = [(model.name, timings)]
    return Embeddings(model, made.rows, made.width, timings)


async def _made(call: ApiCall, model: ServedModel, request: EmbeddingRequest, timings: Timings) -> Embedded:
    """Sets the timings as it goes on."""
    start = time.monotonic()
    await call.service.models.let_embed(model)
    async with _turn(model, call.client, request.priority):
        begun = time.monotonic()
        timings.queue_seconds = begun - start
        async with call.service.models.use(model, request.keep_alive):
            timings.load_seconds = time.monotonic() - begun
            _check(model, request)
            made = await _asked(model, request)
    call.service.metrics.n_steps += made.n_passes
    timings.n_prompt, timings.prompt_seconds = made.n_tokens, made.seconds
    return made


@asynccontextmanager
async def _turn(model: ServedModel, client: str, priority: int) -> AsyncIterator[None]:
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


def _check(model: ServedModel, request: EmbeddingRequest) -> None:
    """Raises Failure for what the model does not do, or does not know."""
    if request.query is None and (request.options.get("pooling") or model.pooling) == "rank":
        raise Failure("invalid", f"{model.name} is a reranker, which gives no embeddings: ask /v1/rerank")
    request.texts = [text if isinstance(text, str) else [*model.texts.mixed(text, "input")] for text in request.texts]


async def _asked(model: ServedModel, request: EmbeddingRequest) -> Embedded:
    for n_tries in range(1, TRIES + 1):
        found = await _asked_once(model, request)
        if isinstance(found, Embedded):
            return found
        if not found.again or n_tries == TRIES:
            raise Failure(found.kind, found.message)
    raise AssertionError


async def _asked_once(model: ServedModel, request: EmbeddingRequest) -> Embedded | Failed:
    engine = model.engine
    answer: asyncio.Future[Embedded | Failed] = asyncio.get_running_loop().create_future()
    id = engine.embed(
        lambda found: None if answer.done() else answer.set_result(found), request.texts, request.query, request.options
    )
    try:
        return await answer
    finally:
        engine.cancel(id)  # does nothing to what is done

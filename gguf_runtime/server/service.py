"""Answers requests: from a Request to events, whatever the API."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct

from ..sampling.params import SamplingParams
from .models import Model, Models
from .parsing import AnswerParser
from .protocol import Ended, Failed, Output
from .turns import Turn
from .vocabulary import Done, Event, Failure, Progress, Request, Timings


class Prepared(Struct):
    """A request, ready for the engine. text: of the prompt, where it is one."""

    text: str
    prompt: list[int]
    options: dict[str, Any]
    seed: int | None


class Service:
    """What all routes have in common."""

    def __init__(self, models: Models) -> None:
        self.models = models

    async def begin(self, request: Request) -> Answer:
        """Have a request answered. What can be told to be wrong with it is told here. Raises Failure."""
        model = self.models.find(request.model)
        model.turns.check(request.n)
        start = time.monotonic()
        await self.models.acquire(model)
        loaded = time.monotonic()
        try:
            prepared = await asyncio.to_thread(prepare, model, request)
            model.turns.check(request.n)
        except BaseException:
            self.models.release(model, request.keep_alive)
            raise
        return Answer(self.models, model, request, prepared, loaded - start)


def prepare(model: Model, request: Request) -> Prepared:
    """The prompt's tokens, and what the engine is to be told. Raises Failure."""
    text, prompt = model.texts.prompt(request)
    if not prompt:
        raise Failure("invalid", "the prompt is empty", field="messages" if request.messages is not None else "prompt")
    if len(prompt) >= model.n_ctx:
        raise Failure(
            "too_long",
            f"the prompt has {len(prompt)} tokens, and the context room for {model.n_ctx}, answer included: "
            "shorten the prompt, or serve the model with a larger context (-c)",
            field="messages" if request.messages is not None else "prompt",
            n_prompt_tokens=len(prompt),
            n_ctx=model.n_ctx,
        )
    try:
        params = SamplingParams(**request.sampling)
        if params.constrains:
            from ..sampling.constraint import check, grammar_of

            check(grammar_of(params))
    except ValueError as error:
        raise Failure("invalid", str(error)) from error
    room = model.n_ctx - len(prompt)
    options = {
        **request.sampling,
        "max_tokens": room if request.max_tokens is None else min(request.max_tokens, room),
        "stop": request.stop,
        "stop_tokens": request.stop_tokens,
        "ignore_eos": request.ignore_eos,
        "logprobs": request.n_logprobs,
        "special": request.special,
        "cache_prompt": request.cache,
        "cache_salt": request.salt,
    }
    return Prepared(text, prompt, options, params.seed)


class Answer:
    """The answers to one request, all n: iterate for the events. To be closed.

    prompt: token ids. timings: what it has cost so far.
    """

    def __init__(
        self, models: Models, model: Model, request: Request, prepared: Prepared, load_seconds: float
    ) -> None:
        self.model, self.request, self.prompt = model, request, prepared.prompt
        self.text = prepared.text
        self.timings = Timings(n_prompt=len(prepared.prompt), load_seconds=load_seconds)
        self._models, self._prepared, self._engine = models, prepared, model.engine
        self._events: deque[Event | Failure] = deque()
        self._news: asyncio.Future[None] | None = None
        self._asked = time.monotonic()
        self._n_left = request.n
        self._closed = False
        self._choices = [_Choice(self, i) for i in range(request.n)]
        for choice in self._choices:
            model.turns.ask(choice.turn)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, Failure):
                    raise event
                yield event
                if isinstance(event, Done):
                    return
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def close(self) -> None:
        """Stop what is under way; the model is no longer needed."""
        if not self._closed:
            self._closed = True
            for choice in self._choices:
                choice.stop()
            self._models.release(self.model, self.request.keep_alive)

    def begin(self, choice: _Choice) -> int:
        """A choice has its turn; gives the engine's number for it."""
        options, seed = self._prepared.options, self._prepared.seed
        if seed is not None:
            options = {**options, "seed": seed + choice.index}
        if not choice.index:
            self.timings.queue_seconds = time.monotonic() - self._asked
        return self._engine.generate(self.prompt, options, self.request.max_thought, choice.receive)

    def add(self, events: list[Event]) -> None:
        self._events += events
        self._wake()

    def fail(self, message: str, kind: Any) -> None:
        self._events.append(Failure(kind, message))
        self._wake()

    def finish(self, n_thought: int, output: Output, ended: Ended) -> None:
        """One of the answers has ended."""
        timings = self.timings
        timings.n_answer += ended.n_tokens
        timings.n_thought += n_thought
        if not timings.prompt_seconds:
            timings.n_cached, timings.prompt_seconds = output.n_cached, output.prompt_seconds
        timings.answer_seconds = max(timings.answer_seconds, ended.answer_seconds)
        self._n_left -= 1
        if not self._n_left:
            self._events.append(Done(timings))
            self._wake()

    def _wake(self) -> None:
        if self._news and not self._news.done():
            self._news.set_result(None)


class _Choice:
    """One of the answers to a request."""

    def __init__(self, answer: Answer, index: int) -> None:
        self.index, self._answer = index, answer
        request = answer.request
        self.turn = Turn(request.client, request.priority, self._start)
        self._parser = AnswerParser(index, request, answer.text)
        self._id: int | None = None

    def stop(self) -> None:
        if self._id is not None:
            self._answer._engine.cancel(self._id)
        self._answer.model.turns.end(self.turn)

    def receive(self, output: Output | Failed) -> None:
        """What the engine has made."""
        answer = self._answer
        if isinstance(output, Failed):
            answer.fail(output.message, "failed" if output.is_ours else "invalid")
            answer.model.turns.end(self.turn)
            return
        if events := self._parser.push(output):
            answer.add(events)
        elif answer.request.progress and not output.ended:
            n_prompt = answer.timings.n_prompt
            answer.add([Progress(n_prompt, output.n_cached, output.n_done, output.prompt_seconds)])
        if ended := output.ended:
            if ended.error:
                answer.fail(ended.error, "failed")
            answer.model.turns.end(self.turn)
            answer.finish(self._parser.n_thought, output, ended)

    def _start(self) -> None:
        self._id = self._answer.begin(self)

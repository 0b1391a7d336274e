"""Answers requests: from a Request to events, whatever the API."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from . import recipes
from .engine import TRIES, Engine
from .metrics import Metrics, Outcome
from .models import Models, ServedModel
from .parsing import AnswerReader, after_thought, readings
from .policy import Policy
from .protocol import Ended, Failed, Output
from .turns import Turn
from .vocabulary import AnswerEvent, AnswerRequest, Done, Failure, PromptProgress, Timings

if TYPE_CHECKING:
    from ..chat.templates import AnswerReading

Made = TypeVar("Made")
_WORKERS = 2  # threads that make tokens of prompts: each takes the interpreter's lock from those that send answers


class Prepared(Struct):
    """A request, ready for the engine. text: of the prompt, where it is one; readings: how to read each answer.
    fills_context: the limit is that of the context."""

    text: str
    prompt: list[int]
    options: dict[str, Any]
    seed: int | None
    readings: list[AnswerReading | None]
    fills_context: bool


class Service:
    """What all routes have in common."""

    def __init__(self, models: Models, policy: Policy) -> None:
        self.models, self.policy, self.metrics = models, policy, Metrics(models)
        self.started = int(time.time())
        self.running: list[Answers] = []  # in the order in which they came
        self._workers = ThreadPoolExecutor(_WORKERS)
        models.watch(self.metrics.step)

    async def begin(self, request: AnswerRequest) -> Answers:
        """Have a request answered. What can be told to be wrong with it is told here. Raises Failure."""
        model = self.models.find(request.model)
        model.turns.check(request.n)
        start = time.monotonic()
        await self.models.acquire(model)
        loaded = time.monotonic()
        try:
            prepared = await self._in_worker(prepare, model, request)
            model.turns.check(request.n)
        except BaseException:
            self.models.release(model, request.keep_alive)
            raise
        return Answers(self, model, request, prepared, loaded - start)

    async def read(self, request: AnswerRequest) -> tuple[str, list[int]]:
        """A request's prompt, as text and token ids, that is not to be answered. Raises Failure."""
        async with self.models.use(self.models.find(request.model)) as model:
            return await self._in_worker(read, model, request)

    async def _in_worker(
        self, work: Callable[[ServedModel, AnswerRequest, Policy], Made], model: ServedModel, request: AnswerRequest
    ) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, model, request, self.policy)


def read(model: ServedModel, request: AnswerRequest, policy: Policy) -> tuple[str, list[int]]:
    """The prompt as text, as far as it is one, and token ids; fills in what the request leaves open. Raises Failure."""
    if model.recipe:
        recipes.apply(model.recipe, request)
    policy.complete(request)
    return model.texts.prompt(request)


def prepare(model: ServedModel, request: AnswerRequest, policy: Policy) -> Prepared:
    """The prompt's tokens, and what the engine is to be told. Raises Failure."""
    from ..arguments import in_vocabulary
    from ..chat.template import ChatError
    from ..sampling import SamplingParams  # NumPy: the server begins to listen without it

    if not model.generates:
        raise Failure("invalid", f"{model.name} is an encoder, which has no next token: it only embeds texts")
    texts = model.texts
    text, prompt = read(model, request, policy)
    request.sampling = {**request.defaults, **request.sampling}
    if not prompt:
        raise Failure("invalid", "the prompt is empty", field="messages" if request.messages is not None else "prompt")
    if len(prompt) >= model.n_ctx:
        raise Failure(
            "too_long",
            f"the prompt has {len(prompt)} tokens, which exceeds the available context size of {model.n_ctx}, answer "
            "included: shorten the prompt, or serve the model with a larger context (-c)",
            field="messages" if request.messages is not None else "prompt",
            n_prompt_tokens=len(prompt),
            n_ctx=model.n_ctx,
        )
    for biased, bias in request.bias_texts:
        ids = texts.tokenizer.encode(biased, add_special=False)
        request.sampling.setdefault("logit_bias", {}).update(dict.fromkeys(ids, bias))
    try:
        found = readings(texts, request, text)
        if found[0] and found[0].grammar:
            request.sampling["lark"] = found[0].grammar
        elif found[0] and (closing := found[0].parser.closing):
            if "json_schema" in request.sampling:
                request.sampling["lark"] = after_thought(texts, closing, request.sampling.pop("json_schema"))
            elif {"grammar", "regex"} & set(request.sampling):  # which say themselves what an answer is
                found = [None] * request.n
        params = SamplingParams(**request.sampling)
        in_vocabulary("logit_bias", params.logit_bias, texts.tokenizer.n_vocab)
        in_vocabulary("stop_token_ids", request.stop_tokens, texts.tokenizer.n_vocab)
        if params.constrains:
            from ..sampling.constraint import check

            check(params)
    except ValueError as error:
        raise Failure("invalid", str(error)) from error
    except ChatError as error:
        raise Failure("invalid", str(error), field="tools") from error
    room = model.n_ctx - len(prompt)
    asked, forgets = request.max_tokens, bool(policy.options.get("context_shift"))
    fills_context = not forgets and (asked is None or asked > room)
    options = {
        **policy.options,
        **request.sampling,
        "max_tokens": room if fills_context else asked,
        "stop": [*request.stop, *(found[0].stop if found[0] else ())],
        "stop_tokens": request.stop_tokens,
        "ignore_eos": request.ignore_eos,
        "logprobs": request.n_logprobs,
        "as_drawn": request.as_drawn,
        "special": request.special or sorted(found[0].shown_ids if found[0] else ()),
        "cache_prompt": request.cache,
        "cache_salt": request.salt,
        "client": request.client,
        "priority": request.priority,
    }
    return Prepared(text, prompt, options, params.seed, found, fills_context)


class Answers:
    """The answers to one request, all n: iterate for the events. To be closed.

    prompt: token ids; text: of the prompt, where it is one. number: tells it from others.
    fills_context: only the context limits its length. streams: events are told as they come, else once all are there,
    so that until then what is lost with its engine can be made anew.
    """

    def __init__(
        self, service: Service, model: ServedModel, request: AnswerRequest, prepared: Prepared, load_seconds: float
    ) -> None:
        self.model, self.request, self.prompt, self.text = model, request, prepared.prompt, prepared.text
        self._service, self._prepared, self.fills_context = service, prepared, prepared.fills_context
        self.number = service.metrics.n_requests + len(service.running)
        service.running.append(self)
        self._load_seconds, self.asked = load_seconds, time.monotonic()
        self.streams = False
        self._events: deque[AnswerEvent | Failure] = deque()
        self._told: set[int] = set()  # choices of which something has been told
        self._complete = False
        self._news: asyncio.Future[None] | None = None
        self.outcome = Outcome.CANCELLED  # unless it comes otherwise
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        if (seconds := service.policy.max_seconds) is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire, seconds)
        self._choices = [_RunningAnswer(self, i, reading) for i, reading in enumerate(prepared.readings)]
        for choice in self._choices:
            model.turns.ask(choice.turn)

    async def __aiter__(self) -> AsyncIterator[AnswerEvent]:
        while True:
            while self._events and (self.streams or self._complete):
                event = self._events.popleft()
                if isinstance(event, Failure):
                    self.outcome = Outcome.FAILED
                    raise event
                if isinstance(event, Done):
                    self.outcome = Outcome.DONE
                elif not isinstance(event, PromptProgress):
                    self._told.add(event.index)
                yield event
                if isinstance(event, Done):
                    return
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    @property
    def timings(self) -> Timings:
        """What it has cost so far."""
        first, outputs = self._choices[0], [choice.last for choice in self._choices if choice.last]
        return Timings(
            n_prompt=len(self.prompt),
            n_cached=first.last.n_cached if first.last else 0,
            n_answer=sum(output.n_answer for output in outputs),
            n_thought=sum(choice.reader.n_thought for choice in self._choices),
            n_drafts=sum(output.n_drafts for output in outputs),
            n_drafted=sum(output.n_drafted for output in outputs),
            n_accepted=sum(output.n_accepted for output in outputs),
            prompt_seconds=first.last.prompt_seconds if first.last else 0.0,
            answer_seconds=max((output.answer_seconds for output in outputs), default=0.0),
            queue_seconds=(first.begun or self.asked) - self.asked,
            load_seconds=self._load_seconds,
        )

    def close(self) -> None:
        """Stop what is under way; the model is no longer needed."""
        if not self._closed:
            self._closed = True
            if self._timer:
                self._timer.cancel()
            for choice in self._choices:
                choice.stop()
            self._service.models.release(self.model, self.request.keep_alive)
            self._service.running.remove(self)
            self._service.metrics.answered(self.timings, self.outcome)

    def generate(self, choice: _RunningAnswer) -> tuple[Engine, int]:
        """A choice has its turn; gives the engine that has it, and its number there."""
        prepared, request, engine = self._prepared, self.request, self.model.engine
        options = prepared.options
        if prepared.seed is not None:
            options = {**options, "seed": prepared.seed + choice.index}
        return engine, engine.generate(choice.receive, self.prompt, options, request.max_thought, request.progress)

    async def reload(self) -> None:
        """Wait for the engine that takes the place of one that died. Raises Failure."""
        await self._service.models.acquire(self.model)
        self._service.models.release(self.model)

    def add(self, events: Sequence[AnswerEvent | Failure]) -> None:
        self._events += events
        self._complete |= any(isinstance(event, Failure) for event in events)
        if all(choice.ended for choice in self._choices):
            self._events.append(Done(self.timings))
            self._complete = True
        if self._news and not self._news.done():
            self._news.set_result(None)

    def take_back(self, index: int) -> bool:
        """Have a choice begin anew, unless something of it has been told; whether it may."""
        if index in self._told:
            return False
        kept = (event for event in self._events if getattr(event, "index", None) != index)
        self._events = deque(kept)
        return True

    def reading(self, index: int) -> AnswerReading | None:
        """How to read a choice from its beginning."""
        return self._prepared.readings[index] and readings(self.model.texts, self.request, self.text)[index]

    def _expire(self, seconds: float) -> None:
        self.add([Failure("timeout", f"the answer took longer than {seconds:g} seconds, which is as long as it may")])

    def note(self, seconds: float, is_first: bool) -> None:
        """A token has come, so long after the one before it, or after the request."""
        self._service.metrics.token(seconds, is_first)


class _RunningAnswer:
    """One of the answers to a request. begun: when it had its turn; last: what has come of it last."""

    def __init__(self, answer: Answers, index: int, reading: AnswerReading | None) -> None:
        request = answer.request
        self.index, self._answer = index, answer
        self.turn = Turn(request.client, request.priority, self._start)
        self.reader = AnswerReader(index, request, reading, answer.fills_context)
        self.begun: float | None = None
        self.last: Output | None = None
        self.ended = False
        self._n_tries = 1
        self._last_token = answer.asked
        self._made_by: tuple[Engine, int] | None = None
        self._late: asyncio.Task[None] | None = None

    def stop(self) -> None:
        if self._late:
            self._late.cancel()
        if self._made_by:
            engine, id = self._made_by
            engine.cancel(id)
        self._answer.model.turns.end(self.turn)

    def receive(self, output: Output | Failed) -> None:
        """What the engine has made."""
        answer = self._answer
        if isinstance(output, Failed):
            if output.again and self._n_tries < TRIES and answer.take_back(self.index):
                self._n_tries, self.last = self._n_tries + 1, None
                reading = answer.reading(self.index)
                self.reader = AnswerReader(self.index, answer.request, reading, answer.fills_context)
                self._start()
                return
            answer.model.turns.end(self.turn)
            answer.add([Failure(output.kind, output.message)])
            return
        if output.pieces:
            now = time.monotonic()
            answer.note(now - self._last_token, is_first=self._last_token is answer.asked)
            self._last_token = now
        events: list[AnswerEvent | Failure] = [*self._progress(output)]
        self.last = output
        try:
            events += self.reader.push(output)
        except Exception as error:  # a bug; other answers go on
            self.stop()
            answer.add([Failure("failed", f"the answer cannot be read: {type(error).__name__}: {error}")])
            return
        if self.reader.done and not output.ended:
            events += self.reader.finish(Ended("end", None))
            self.stop()
            self.ended = True
        if output.ended:
            if output.ended.error:
                events.append(Failure("failed", output.ended.error))
            self.ended = True
            answer.model.turns.end(self.turn)
        if events:
            answer.add(events)

    def _progress(self, output: Output) -> Iterator[PromptProgress]:
        """How far the prompt is, where that is wanted: first what was there before, at last all of it."""
        if not self._answer.request.progress or self.index or (self.last and self.last.n_answer):
            return
        n, n_cached = len(self._answer.prompt), output.n_cached
        if self.last is None:
            yield PromptProgress(n, n_cached, n_cached, 0.0)
        yield PromptProgress(n, n_cached, n if output.n_answer else output.n_done, output.prompt_seconds)

    def _start(self) -> None:
        if self._answer.model.state == "loaded":
            self.begun = time.monotonic()
            self._made_by = self._answer.generate(self)
        else:
            self._late = asyncio.create_task(self._start_late())

    async def _start_late(self) -> None:
        try:
            await self._answer.reload()
            self._start()
        except Failure as failure:
            self._answer.model.turns.end(self.turn)
            self._answer.add([failure])

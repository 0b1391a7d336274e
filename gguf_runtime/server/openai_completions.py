"""OpenAI's completions of plain text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from .http import ApiCall, Stream, event
from .openai import FINGERPRINT, finite, new_id, now, set_common, timings_of, usage
from .openai_chat import MOST_CHOICES
from .sampling_fields import max_tokens, set_sampling
from .service import Answers
from .texts import ModelTexts
from .vocabulary import AnswerEvent, AnswerRequest, Done, Failure, Finish, TextDelta, Timings, Token

_REASONS = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}
Prompt = str | list[int | str]


async def completions(call: ApiCall) -> Any:
    body = call.body
    prompts = read_prompts(body.required(body.any("prompt"), "prompt"))
    n = body.whole("n", least=1, most=MOST_CHOICES) or 1
    n_best = body.whole("best_of", least=1, most=MOST_CHOICES) or n
    streams = bool(body.flag("stream"))
    if n_best < n or (streams and n_best > n):
        raise Failure("invalid", "best_of must be n or more, and n where the answer is streamed", field="best_of")
    answers: list[Answers] = []

    def close() -> None:
        for answer in answers:
            answer.close()

    try:
        for prompt in prompts:
            answers.append(await call.begin(_request(call, prompt, n_best)))
        if streams:
            options = body.within("stream_options")
            return Stream(_chunks(call, answers, bool(options and options.flag("include_usage"))), close)
        return await _whole(call, answers, n)
    except BaseException:
        close()
        raise
    finally:
        if not streams:
            close()


def read_prompts(value: Any) -> list[Prompt]:
    """Prompts from a text, a list of texts, of token ids, or of lists of these. Raises Failure."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(map(_is_token, value)):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, str) or _is_mixed(item) for item in value):
        return list(value)
    if isinstance(value, list) and value and _is_mixed(value):
        return [value]
    raise Failure("invalid", "prompt must be text, token ids, or a list of these", field="prompt")


def _is_mixed(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) or _is_token(item) for item in value)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _request(call: ApiCall, prompt: Prompt, n: int) -> AnswerRequest:
    body = call.body
    request = AnswerRequest(model=body.text("model") or "", prompt=prompt, n=n, suffix=body.text("suffix"))
    set_sampling(request, body)
    set_common(request, call)
    request.max_tokens = max_tokens(body, "max_tokens", "max_completion_tokens", "n_predict")
    request.n_logprobs = body.whole("logprobs", least=0, most=20)
    if body.flag("echo") and request.n_logprobs is not None:
        message = "echo with logprobs is not supported: those of the prompt are not told"
        raise Failure("invalid", message, field="logprobs")
    if n > 1 and body.any("best_of") and request.n_logprobs is None:
        request.n_logprobs = 0
    return request


class _Choice:
    """One text in the making."""

    def __init__(self, call: ApiCall, answer: Answers, prompt: str) -> None:
        self._answer, self._wants = answer, call.body.any("logprobs") is not None
        self.parts = [prompt]
        self.tokens: list[Token] = []
        self.reason: str | None = None

    def add(self, item: AnswerEvent) -> None:
        if isinstance(item, TextDelta):
            self.parts.append(item.text)
            self.tokens += item.tokens
        elif isinstance(item, Finish):
            self.reason = _REASONS[item.reason]

    @property
    def merit(self) -> float:
        """The mean log probability, by which best_of chooses."""
        return sum(finite(token.logprob) for token in self.tokens) / max(len(self.tokens), 1)

    def facts(self, index: int) -> dict[str, Any]:
        logprobs = old_logprobs(self.tokens, self._answer.model.texts, 0) if self._wants else None
        return {"text": "".join(self.parts), "index": index, "logprobs": logprobs, "finish_reason": self.reason}


async def _whole(call: ApiCall, answers: Sequence[Answers], n: int) -> dict[str, Any]:
    choices = [
        [_Choice(call, answer, _echoed(call, answer)) for _ in range(answer.request.n)] for answer in answers
    ]
    async for i, item in merged(answers):
        if isinstance(item, TextDelta | Finish):
            choices[i][item.index].add(item)
    best = [sorted(some, key=lambda choice: -choice.merit)[:n] if len(some) > n else some for some in choices]
    timings = total(answers)
    return {
        **_head(answers[0]),
        "choices": [choice.facts(index) for index, choice in enumerate(choice for some in best for choice in some)],
        "usage": usage(timings),
        "timings": timings_of(timings),
    }


async def _chunks(call: ApiCall, answers: Sequence[Answers], wants_usage: bool) -> AsyncIterator[bytes]:
    head, wants = _head(answers[0]), call.body.any("logprobs") is not None
    offsets: dict[int, int] = {}

    def chunk(index: int, text: str, reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
        return event({**head, "choices": [choice]})

    for i, answer in enumerate(answers):
        for choice in range(answer.request.n):
            if text := _echoed(call, answer):
                yield chunk(i * answer.request.n + choice, text)
    yield b": accepted\n\n"
    async for i, item in merged(answers):
        if isinstance(item, TextDelta):
            index = i * answers[i].request.n + item.index
            at = offsets.get(index, 0)
            offsets[index] = at + len(item.text)
            logprobs = old_logprobs(item.tokens, answers[i].model.texts, at) if wants else None
            yield chunk(index, item.text, logprobs=logprobs)
        elif isinstance(item, Finish):
            yield chunk(i * answers[i].request.n + item.index, "", _REASONS[item.reason])
    if wants_usage:
        timings = total(answers)
        yield event({**head, "choices": [], "usage": usage(timings), "timings": timings_of(timings)})
    yield b"data: [DONE]\n\n"


def _head(answer: Answers) -> dict[str, Any]:
    return {
        "id": new_id("cmpl-"), "object": "text_completion", "created": now(), "model": answer.model.name,
        "system_fingerprint": FINGERPRINT,
    }  # fmt: skip


def _echoed(call: ApiCall, answer: Answers) -> str:
    if not call.body.flag("echo"):
        return ""
    return answer.text or answer.model.texts.tokenizer.decode(answer.prompt, skip_special=True)


def old_logprobs(tokens: Sequence[Token], texts: ModelTexts, offset: int) -> dict[str, Any]:
    """Log probabilities as completions have them. offset: characters of the text before these tokens."""
    pieces = [_piece(token.id, texts) for token in tokens]
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece)
    return {
        "tokens": pieces,
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": [{_piece(id, texts): finite(logprob) for id, logprob in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _piece(id: int, texts: ModelTexts) -> str:
    return texts.tokenizer.token_bytes(id).decode(errors="replace")


def total(answers: Sequence[Answers]) -> Timings:
    """What several answers have cost together."""
    found = Timings()
    for timings in (answer.timings for answer in answers):
        for name in ("n_prompt", "n_cached", "n_answer", "n_thought", "prompt_seconds", "answer_seconds"):
            setattr(found, name, getattr(found, name) + getattr(timings, name))
    return found


async def merged(answers: Sequence[Answers]) -> AsyncIterator[tuple[int, AnswerEvent]]:
    """The events of several answers as they come, each with its answer's number."""
    if len(answers) == 1:
        async for item in answers[0]:
            yield 0, item
        return
    queue: asyncio.Queue[tuple[int, AnswerEvent | Failure]] = asyncio.Queue()

    async def read(i: int, answer: Answers) -> None:
        try:
            async for item in answer:
                queue.put_nowait((i, item))
        except Failure as failure:
            queue.put_nowait((i, failure))

    tasks = [asyncio.create_task(read(i, answer)) for i, answer in enumerate(answers)]
    try:
        n_left = len(answers)
        while n_left:
            i, found = await queue.get()
            if isinstance(found, Failure):
                raise found
            n_left -= isinstance(found, Done)
            yield i, found
    finally:
        for task in tasks:
            task.cancel()

"""llama-server's own API: completion, and filling in between two texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from .fields import Fields, plain
from .http import ApiCall, Stream, event
from .llama_server_answer import AnswerText, probabilities
from .openai import progress, set_common, timings_of
from .openai_completions import merged
from .sampling_fields import max_tokens, set_sampling
from .service import Answers
from .vocabulary import AnswerRequest, Done, PromptProgress, TextDelta, Timings


async def completion(call: ApiCall) -> Any:
    body = call.body
    prompts, is_list = _prompts(body)
    return await _complete(call, [_request(call, prompt) for prompt in prompts], is_list)


async def infill(call: ApiCall) -> Any:
    body = call.body
    prefix = body.required(body.text("input_prefix"), "input_prefix")
    suffix = body.required(body.text("input_suffix"), "input_suffix")
    files = body.objects("input_extra")
    extra = [(file.text("filename") or "", file.required(file.text("text"), "text")) for file in files]
    request = _request(call, "")
    async with call.service.models.use(call.service.models.find(request.model)) as model:
        n_answer = min(request.max_tokens or model.n_ctx // 4, model.n_ctx // 2)
        begun, n_most = body.text("prompt") or "", model.n_ctx - n_answer
        ids = await asyncio.to_thread(model.texts.infill, prefix, suffix, n_most, begun=begun, files=extra)
        request.prompt = [*ids]
    return await _complete(call, [request], False)


def _request(call: ApiCall, prompt: str | list[int | str]) -> AnswerRequest:
    body = call.body
    request = AnswerRequest(model=body.text("model") or "", prompt=prompt, tells_tokens=True)
    set_sampling(request, body)
    set_common(request, call)
    request.max_tokens = max_tokens(body, "n_predict", "max_tokens")
    request.n = body.whole("n_cmpl", least=1, most=16) or 1
    if n_probs := body.whole("n_probs", "logprobs", least=0, most=1000):
        request.n_logprobs = n_probs
        request.as_drawn = bool(body.flag("post_sampling_probs"))
    return request


def _prompts(body: Fields) -> tuple[list[str | list[int | str]], bool]:
    """The prompts, and whether they came as a list of them. Raises Failure."""
    value = body.required(body.any("prompt"), "prompt")
    value = [plain(part) for part in value] if isinstance(value, list) else plain(value)
    if isinstance(value, str):
        return [value], False
    if _is_mixed(value) and not (len(value) > 1 and all(isinstance(part, str) for part in value)):
        return [value], False
    if not isinstance(value, list) or not value or not all(isinstance(part, str) or _is_mixed(part) for part in value):
        raise body.wrong("prompt", "text, token ids, both mixed, or a list of these", value)
    return list(value), True


def is_part(value: Any) -> bool:
    """Whether it is text or a token id."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_mixed(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_part, value))


async def _complete(call: ApiCall, requests: Sequence[AnswerRequest], is_list: bool) -> Any:
    answers: list[Answers] = []
    streams = bool(call.body.flag("stream"))

    def close() -> None:
        for answer in answers:
            answer.close()

    try:
        for request in requests:
            answers.append(await call.begin(request))
        writers = [_Writer(call.body, answer, i) for i, answer in enumerate(answers)]
        if streams:
            return Stream(_events(writers), close)
        async for i, item in merged(answers):
            writers[i].add(item)
        wholes = [_picked(call.body, writer.whole()) for writer in writers]
        return wholes if is_list else wholes[0]
    except BaseException:
        close()
        raise
    finally:
        if not streams:
            close()


async def _events(writers: Sequence[_Writer]) -> AsyncIterator[bytes]:
    async for i, item in merged([writer.answer for writer in writers]):
        writer = writers[i]
        writer.add(item)
        if isinstance(item, TextDelta):
            yield event(writer.piece(item))
        elif isinstance(item, PromptProgress):
            yield event({**writer.piece(TextDelta(0, "", []), item.timings), "prompt_progress": progress(item)})
        elif isinstance(item, Done):
            yield event({**writer.whole(), "content": "", "tokens": []})


class _Writer(AnswerText):
    """Writes one answer in llama-server's form."""

    def __init__(self, body: Fields, answer: Answers, index: int) -> None:
        super().__init__(answer, index)
        self._body = body

    def piece(self, item: TextDelta, so_far: Timings | None = None) -> dict[str, Any]:
        timings = so_far or self.answer.timings
        facts: dict[str, Any] = {
            "index": self.index, "content": item.text, "tokens": [token.id for token in item.tokens], "stop": False,
            "id_slot": self.index, "tokens_predicted": timings.n_answer, "tokens_evaluated": len(self.answer.prompt),
        }  # fmt: skip
        if self.answer.request.n_logprobs is not None:
            facts["completion_probabilities"] = probabilities(self.answer, item.tokens)
        if self._body.flag("timings_per_token"):
            facts["timings"] = timings_of(timings)
        return facts

    def whole(self) -> dict[str, Any]:
        return self.facts(tells_tokens=bool(self._body.flag("return_tokens")))


def _picked(body: Fields, whole: dict[str, Any]) -> dict[str, Any]:
    """Only the fields that are wanted: a/b is b of a."""
    names = body.texts("response_fields")
    if not names:
        return whole
    found = {}
    for name in names:
        value: Any = whole
        for part in name.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found

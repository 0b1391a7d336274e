"""llama-server's own API: completion, and filling in between two texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from .fields import Fields
from .http import Call, Stream, event
from .openai import finite, set_common, timings_of
from .openai_chat import progress
from .openai_completions import merged
from .sampling_fields import max_tokens, set_sampling
from .service import Answer
from .texts import ModelTexts
from .vocabulary import Done, Finish, Progress, Request, Text, Token

_STOPS = {"end": "eos", "stop": "word", "length": "limit", "context": "limit", "tool_calls": "eos"}
DEFAULTS = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 1.0, "repeat_penalty": 1.0,
    "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0, "mirostat": 0,
}  # fmt: skip


async def completion(call: Call) -> Any:
    body = call.body
    prompts, is_list = _prompts(body)
    return await _complete(call, [_request(call, prompt) for prompt in prompts], is_list)


async def infill(call: Call) -> Any:
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


def _request(call: Call, prompt: str | list[int | str]) -> Request:
    body = call.body
    request = Request(model=body.text("model") or "", prompt=prompt, tells_tokens=True)
    set_sampling(request, body)
    set_common(request, call)
    request.max_tokens = max_tokens(body, "n_predict", "max_tokens")
    request.n = body.whole("n_cmpl", least=1, most=16) or 1
    if n_probs := body.whole("n_probs", "logprobs", least=0, most=1000):
        request.n_logprobs = n_probs
    return request


def _prompts(body: Fields) -> tuple[list[str | list[int | str]], bool]:
    """The prompts, and whether they came as a list of them. Raises Failure."""
    value = body.required(body.any("prompt"), "prompt")
    if isinstance(value, dict):
        value = value.get("prompt_string")
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


async def _complete(call: Call, requests: Sequence[Request], is_list: bool) -> Any:
    answers: list[Answer] = []
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
        if isinstance(item, Text):
            yield event(writer.piece(item))
        elif isinstance(item, Progress):
            yield event({**writer.piece(Text(0, "", [])), "prompt_progress": progress(item)})
        elif isinstance(item, Done):
            yield event({**writer.whole(), "content": "", "tokens": []})


class _Writer:
    """Writes one answer in llama-server's form."""

    def __init__(self, body: Fields, answer: Answer, index: int) -> None:
        self.answer, self._body, self._index = answer, body, index
        self._parts: list[str] = []
        self._tokens: list[Token] = []
        self._finish: Finish | None = None

    def add(self, item: Any) -> None:
        if isinstance(item, Text):
            self._parts.append(item.text)
            self._tokens += item.tokens
        elif isinstance(item, Finish):
            self._finish = item

    def piece(self, item: Text) -> dict[str, Any]:
        timings = self.answer.timings
        facts: dict[str, Any] = {
            "index": self._index, "content": item.text, "tokens": [token.id for token in item.tokens], "stop": False,
            "id_slot": self._index, "tokens_predicted": timings.n_answer, "tokens_evaluated": timings.n_prompt,
        }  # fmt: skip
        if self.answer.request.n_logprobs is not None:
            facts["completion_probabilities"] = self._probabilities(item.tokens)
        if self._body.flag("timings_per_token"):
            facts["timings"] = timings_of(timings)
        return facts

    def whole(self) -> dict[str, Any]:
        text, answer, timings = "".join(self._parts), self.answer, self.answer.timings
        finish = self._finish or Finish(0, "length")
        facts: dict[str, Any] = {
            "index": self._index, "content": text,
            "tokens": [token.id for token in self._tokens] if self._body.flag("return_tokens") else [],
            "id_slot": self._index, "stop": True, "model": answer.model.name,
            "tokens_predicted": timings.n_answer, "tokens_evaluated": timings.n_prompt,
            "generation_settings": {**settings(answer), "lora": []},
            "prompt": answer.model.texts.tokenizer.decode(answer.prompt), "has_new_line": "\n" in text,
            "truncated": False, "stop_type": _STOPS[finish.reason], "stopping_word": finish.stop or "",
            "tokens_cached": timings.n_prompt + timings.n_answer, "timings": timings_of(timings),
        }  # fmt: skip
        if answer.request.n_logprobs is not None:
            facts["completion_probabilities"] = self._probabilities(self._tokens)
        return facts

    def _probabilities(self, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        texts = self.answer.model.texts
        return [
            {**_likely(token.id, token.logprob, texts), "top_logprobs": [_likely(*top, texts) for top in token.top]}
            for token in tokens
        ]


def _likely(id: int, logprob: float | None, texts: ModelTexts) -> dict[str, Any]:
    data = texts.tokenizer.token_bytes(id)
    return {"id": id, "token": data.decode(errors="replace"), "bytes": list(data), "logprob": finite(logprob)}


def settings(answer: Answer) -> dict[str, Any]:
    """How an answer is made, by llama-server's names."""
    request = answer.request
    plain = {name: value for name, value in request.sampling.items() if name not in ("logit_bias", "lark")}
    return {
        **DEFAULTS, **plain, "n_predict": -1 if request.max_tokens is None else request.max_tokens,
        "stop": request.stop, "ignore_eos": request.ignore_eos, "n_probs": request.n_logprobs or 0,
        "stream": False, "seed": request.sampling.get("seed", -1),
    }  # fmt: skip


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
            found[name.rpartition("/")[2]] = value
    return found

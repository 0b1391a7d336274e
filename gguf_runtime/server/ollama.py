"""Ollama's API: chat and generate."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.routing import Route

from .fields import Fields
from .http import Api, ApiCall, Stream, encode, routes
from .models import ServedModel
from .sampling_fields import set_sampling, set_schema
from .service import Answers
from .vocabulary import AnswerRequest, ArgumentsDelta, Done, Failure, Finish, TextDelta, Timings, ToolCall

_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.0}
_REASONS = {"end": "stop", "stop": "stop", "length": "length", "context": "length", "tool_calls": "stop"}
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"([\d.]+)(h|ms|m|s|us|µs|ns)")
_NDJSON = "application/x-ndjson"
_LEVELS = ("low", "medium", "high", "max")


def error(failure: Failure, id: str) -> dict[str, Any]:
    if failure.kind == "busy":
        return {"error": _BUSY}
    if failure.kind == "no_model":
        return {"error": f"model '{failure.facts.get('name', '')}' not found"}
    return {"error": failure.message}


API = Api(
    error,
    lambda failure, id: encode(error(failure, id)) + b"\n",
    status=lambda failure: 503 if failure.kind == "busy" else failure.status,
)


async def chat(call: ApiCall) -> Any:
    body, model = call.body, asked_model(call)
    messages = [_message(message) for message in body.objects("messages")]
    if not messages:
        return await load(call, model, {"message": {"role": "assistant", "content": ""}})
    tools = [dict(tool.body) for tool in body.objects("tools")]
    request = AnswerRequest(model=model.name, messages=messages, tools=tools)
    await _set_options(call, model, request)
    request.continues = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    return await _answer(call, request, _ChatWriter)


async def generate(call: ApiCall) -> Any:
    body, model = call.body, asked_model(call)
    prompt, system, context = body.text("prompt") or "", body.text("system"), body.array("context") or []
    raw, suffix = bool(body.flag("raw")), body.text("suffix")
    if raw and (system or context or body.text("template")):
        raise Failure("invalid", "raw mode does not support template, system, or context")
    if body.text("template"):
        raise Failure("invalid", "template: make a model of it with `ggrun create`")
    if body.array("images"):
        raise Failure("invalid", f'"{shown(model.name)}" does not support images')
    if not all(isinstance(id, int) and not isinstance(id, bool) for id in context):
        raise body.wrong("context", "a list of token ids", context)
    if not prompt and suffix is None:
        return await load(call, model, {"response": ""})
    request = AnswerRequest(model=model.name, suffix=suffix or None, tells_tokens=True)  # for `context`
    async with call.service.models.use(model):
        has_template = model.texts.templates.exist
    if raw or suffix or not has_template:
        request.prompt = [*context, f"{system}\n\n{prompt}" if system else prompt] if context else prompt
    else:
        request.messages = [{"role": "system", "content": system}] if system else []
        request.messages.append({"role": "user", "content": prompt})
        request.before = context
    await _set_options(call, model, request)
    return await _answer(call, request, _TextWriter)


def seconds(value: Any) -> float | None:
    """A duration: a number of seconds, or Go's notation; below 0 is for ever. Raises Failure."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = value.removeprefix("-") if isinstance(value, str) else ""
    parts = _DURATION.findall(text)
    if parts and "".join(n + unit for n, unit in parts) == text:
        total = sum(float(n) * _UNITS[unit] for n, unit in parts)
        return -total if value.startswith("-") else total
    if re.fullmatch(r"-?\d+(\.\d+)?", str(value)):
        return float(value)
    raise Failure("invalid", f"keep_alive: {value!r} is no duration such as 5m or 300", field="keep_alive")


def shown(name: str) -> str:
    """A name with its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def moment(stamp: float | None = None) -> str:
    """RFC 3339, with an offset and microseconds; None: now."""
    return datetime.fromtimestamp(time.time() if stamp is None else stamp, UTC).isoformat(timespec="microseconds")


def asked_model(call: ApiCall) -> ServedModel:
    """The one that a body names. Raises Failure."""
    name = call.body.required(call.body.text("model", "name"), "model")
    return call.service.models.find(name)


async def load(call: ApiCall, model: ServedModel, facts: dict[str, Any]) -> Any:
    """Without anything to answer, the model is loaded, or unloaded."""
    keep_alive = seconds(call.body.any("keep_alive"))
    if keep_alive == 0:
        await call.service.models.unload(model)
    else:
        await call.service.models.acquire(model)
        call.service.models.release(model, keep_alive)
    reason = "unload" if keep_alive == 0 else "load"
    return {"model": shown(model.name), "created_at": moment(), **facts, "done": True, "done_reason": reason}


def _message(message: Fields) -> dict[str, Any]:
    role = message.required(message.text("role"), "role")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise message.wrong("role", "system, user, assistant or tool", role)
    if message.array("images"):
        raise Failure("invalid", "images: this model does not see", field="images")
    found: dict[str, Any] = {"role": role, "content": message.text("content") or ""}
    if thought := message.text("thinking"):
        found["reasoning_content"] = thought
    if name := message.text("tool_name", "name"):
        found["name"] = name
    if id := message.text("tool_call_id"):
        found["tool_call_id"] = id
    calls = message.objects("tool_calls")
    for call in calls:
        function = call.required(call.within("function"), "function")
        arguments = function.object("arguments") or {}
        name = function.required(function.text("name"), "name")
        one = {"type": "function", "function": {"name": name, "arguments": arguments}}
        found.setdefault("tool_calls", []).append(one | ({"id": id} if (id := call.text("id")) else {}))
    return found


async def _set_options(call: ApiCall, model: ServedModel, request: AnswerRequest) -> None:
    """What Ollama's other fields say. Raises Failure."""
    body = call.body
    options = body.within("options") or Fields({})
    request.defaults |= _DEFAULTS
    set_sampling(request, options)
    n = options.whole("num_predict")
    request.max_tokens = n if n is not None and n >= 0 else None
    request.keep_alive = seconds(body.any("keep_alive"))
    form = body.any("format")
    if form == "json":
        set_schema(request, {"type": "object"}, "format")
    elif form not in (None, ""):
        set_schema(request, form, "format")
    async with call.service.models.use(model):
        if (n_ctx := options.whole("num_ctx") or 0) > model.n_ctx:
            raise Failure(
                "invalid", f"num_ctx is {n_ctx}, and the model is served with a context of {model.n_ctx}: see -c"
            )
        think = body.any("think")
        if think not in (None, True, False, *_LEVELS):
            raise body.wrong("think", f"true, false, {', '.join(_LEVELS)}", think)
        if think and not model.texts.thinks:
            raise Failure("invalid", f'"{shown(model.name)}" does not support thinking')
    if think is not None:
        request.template["enable_thinking"] = bool(think)
    if isinstance(think, str):
        request.template["reasoning_effort"] = think


async def _answer(call: ApiCall, request: AnswerRequest, writer: Callable[[Answers], _Writer]) -> Any:
    start = time.monotonic()
    answer = await call.begin(request)
    lines = writer(answer).lines(start)
    if call.body.flag("stream") is not False:
        return Stream(_encoded(lines), answer.close, _NDJSON)
    try:
        return await _joined(lines)
    finally:
        answer.close()


async def _encoded(lines: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield encode(line) + b"\n"


async def _joined(lines: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The last line, with what the others say."""
    whole: dict[str, Any] = {}
    async for line in lines:
        if "message" not in line:
            joined: dict[str, Any] = {
                name: whole.get(name, "") + line[name] for name in ("response", "thinking") if name in line
            }
            whole |= {**line, **joined}
            continue
        message, before = line["message"], whole.get("message", {})
        for name in ("content", "thinking", "tool_calls"):
            if name in message and name in before:
                message[name] = before[name] + message[name]
        whole |= {**line, "message": {**before, **message}}
    return whole


class _Writer:
    """Writes an answer line by line."""

    def __init__(self, answer: Answers) -> None:
        self.answer = answer

    def said(self, item: TextDelta) -> dict[str, Any]:
        raise NotImplementedError

    def called(self, call: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def last(self) -> dict[str, Any]:
        raise NotImplementedError

    async def lines(self, start: float) -> AsyncIterator[dict[str, Any]]:
        """start: when the request came."""
        name, reason = shown(self.answer.model.name), ""
        call: dict[str, Any] | None = None  # that is not whole yet

        def line(facts: dict[str, Any]) -> dict[str, Any]:
            return {"model": name, "created_at": moment(), **facts, "done": False}

        async for item in self.answer:
            if call and not isinstance(item, ArgumentsDelta):
                yield line(self.called(_whole(call)))
                call = None
            match item:
                case TextDelta():
                    yield line(self.said(item))
                case ToolCall():
                    function = {"index": item.number, "name": item.name, "arguments": ""}
                    call = {"id": item.id, "index": item.number, "function": function}  # litellm goes by this index
                case ArgumentsDelta() if call:
                    call["function"]["arguments"] += item.text
                case Finish():
                    reason = _REASONS[item.reason]
                case Done():
                    end = {"done": True, "done_reason": reason}
                    yield {**line(self.last()), **end, **_durations(item.timings, time.monotonic() - start)}


class _ChatWriter(_Writer):
    def said(self, item: TextDelta) -> dict[str, Any]:
        if item.is_thought:
            return {"message": {"role": "assistant", "content": "", "thinking": item.text}}
        return {"message": {"role": "assistant", "content": item.text}}

    def called(self, call: dict[str, Any]) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": "", "tool_calls": [call]}}

    def last(self) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": ""}}


class _TextWriter(_Writer):
    def __init__(self, answer: Answers) -> None:
        super().__init__(answer)
        self._ids = list(answer.prompt)

    def said(self, item: TextDelta) -> dict[str, Any]:
        self._ids += [token.id for token in item.tokens]
        return {"response": "", "thinking": item.text} if item.is_thought else {"response": item.text}

    def called(self, call: dict[str, Any]) -> dict[str, Any]:
        return {"response": ""}

    def last(self) -> dict[str, Any]:
        return {"response": "", "context": self._ids}


def _whole(call: dict[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object."""
    try:
        arguments = msgspec.json.decode(call["function"]["arguments"] or "{}")
    except msgspec.DecodeError:
        arguments = {}
    call["function"]["arguments"] = arguments if isinstance(arguments, dict) else {"value": arguments}
    return call


def _durations(timings: Timings, total: float) -> dict[str, int]:
    return {
        "total_duration": int(1e9 * total),
        "load_duration": int(1e9 * timings.load_seconds),
        "prompt_eval_count": timings.n_prompt,
        "prompt_eval_duration": int(1e9 * timings.prompt_seconds),
        "eval_count": timings.n_answer,
        "eval_duration": int(1e9 * timings.answer_seconds),
    }


def all_routes() -> list[Route]:
    from . import ollama_embeddings, ollama_models

    own = routes(API, {"/api/chat": chat, "/api/generate": generate})
    return [*own, *ollama_embeddings.all_routes(), *ollama_models.all_routes()]

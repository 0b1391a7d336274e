"""Anthropic's API: messages, and how many tokens they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.routing import Route

from .fields import Fields
from .http import Api, ApiCall, Stream, encode, routes
from .models import ServedModel
from .openai import new_id
from .sampling_fields import set_sampling, set_schema, stops
from .service import Answers
from .vocabulary import AnswerEvent, AnswerRequest, ArgumentsDelta, Failure, Finish, Kind, TextDelta, Timings, ToolCall

_MAX_TOKENS = 4096  # where a body says nothing
_BILLING = "x-anthropic-billing-header:"  # a line of Claude Code's that is different each time: it spoils every cache
_TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error", "unauthorized": "authentication_error", "forbidden": "permission_error",
    "not_found": "not_found_error", "no_model": "not_found_error", "wrong_method": "invalid_request_error",
    "too_large": "request_too_large", "too_long": "invalid_request_error", "busy": "rate_limit_error",
    "failed": "api_error", "unsupported": "invalid_request_error", "loading": "overloaded_error",
    "timeout": "timeout_error",
}  # fmt: skip
_REASONS = {
    "end": "end_turn", "stop": "stop_sequence", "length": "max_tokens", "context": "model_context_window_exceeded",
    "tool_calls": "tool_use",
}  # fmt: skip


def error(failure: Failure, id: str) -> dict[str, Any]:
    told = {"type": _TYPES[failure.kind], "message": failure.message}
    return {"type": "error", "error": told, "request_id": id}


def _event(kind: str, **facts: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **facts}) + b"\n\n"


API = Api(error, lambda failure, id: b"event: error\ndata: " + encode(error(failure, id)) + b"\n\n", _event("ping"))


async def messages(call: ApiCall) -> Any:
    answer = await call.begin(_request(call))
    writer = _Writer(answer)
    if call.body.flag("stream"):
        return Stream(writer.events(), answer.close)
    try:
        async for _ in writer.events():
            pass
    finally:
        answer.close()
    return writer.message


async def count_tokens(call: ApiCall) -> Any:
    _, ids = await call.service.read(_request(call))
    return {"input_tokens": len(ids)}


def model_list(models: Sequence[ServedModel]) -> dict[str, Any]:
    """The models in Anthropic's form."""
    data = [
        {
            "type": "model", "id": model.name, "display_name": model.name,
            "created_at": datetime.fromtimestamp(model.modified, UTC).isoformat().replace("+00:00", "Z"),
        }
        for model in models
    ]  # fmt: skip
    ids = [model["id"] for model in data]
    return {"data": data, "has_more": False, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}


# what a body asks for


def _request(call: ApiCall) -> AnswerRequest:
    """Raises Failure."""
    body = call.body
    found = body.objects("messages")
    if not found:
        raise Failure("invalid", "messages must be a list of at least one message", field="messages")
    conversation = [part for message in found for part in _message(message)]
    if system := _system(body):
        conversation.insert(0, {"role": "system", "content": system})
    request = AnswerRequest(model=body.text("model") or "", messages=conversation)
    set_sampling(request, body)
    n = body.whole("max_tokens", least=1)
    request.max_tokens = _MAX_TOKENS if n is None else n
    request.stop = stops(body, "stop_sequences")
    last = conversation[-1]
    request.continues = last["role"] == "assistant" and not last.get("tool_calls")
    _set_tools(request, body)
    if thinking := body.within("thinking"):
        kind = thinking.text("type")
        if kind not in ("enabled", "disabled", "adaptive"):
            raise thinking.wrong("type", "enabled, disabled or adaptive", kind)
        if kind != "adaptive":
            request.template["enable_thinking"] = kind == "enabled"
        request.max_thought = thinking.whole("budget_tokens", least=0) if kind == "enabled" else None
    form = body.within("output_format")
    if form and form.text("type") == "json_schema":
        set_schema(request, form.any("schema"), "output_format.schema")
    return request


def _system(body: Fields) -> str:
    value = body.any("system")
    if value is None or isinstance(value, str):
        return value or ""
    texts = [block.required(block.text("text"), "text") for block in body.objects("system")]
    return "\n\n".join(text for text in texts if not text.startswith(_BILLING))


def _message(message: Fields) -> Iterator[dict[str, Any]]:
    """A message as the template knows it: results of tools are messages of their own."""
    role = message.required(message.text("role"), "role")
    if role not in ("user", "assistant", "system"):
        raise message.wrong("role", "user or assistant", role)
    content = message.any("content")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    texts: list[str] = []
    found: dict[str, Any] = {"role": role}
    for block in message.objects("content"):
        match kind := block.text("type"):
            case "text":
                texts.append(block.required(block.text("text"), "text"))
            case "thinking":
                found["reasoning_content"] = found.get("reasoning_content", "") + (block.text("thinking") or "")
            case "redacted_thinking":
                pass
            case "tool_use":
                name = block.required(block.text("name"), "name")
                function = {"name": name, "arguments": block.object("input") or {}}
                call = {"id": block.required(block.text("id"), "id"), "type": "function", "function": function}
                found.setdefault("tool_calls", []).append(call)
            case "tool_result":
                id = block.required(block.text("tool_use_id"), "tool_use_id")
                yield {"role": "tool", "tool_call_id": id, "content": _result(block)}
            case _:
                raise block.wrong("type", "a kind of block that is understood here: text, tools, thoughts", kind)
    if texts or len(found) > 1:
        yield {**found, "content": "\n\n".join(texts) if texts or role != "assistant" else None}


def _result(block: Fields) -> str:
    """What a tool gave."""
    value = block.any("content")
    if value is None or isinstance(value, str):
        text = value or ""
    else:
        parts = block.objects("content")
        if other := next((part for part in parts if part.text("type") != "text"), None):
            raise other.wrong("type", "text: nothing else is understood of a result", other.text("type"))
        text = "\n".join(part.required(part.text("text"), "text") for part in parts)
    return f"Error: {text}" if block.flag("is_error") else text


def _set_tools(request: AnswerRequest, body: Fields) -> None:
    """Tools with a schema; those of other types are the server's own elsewhere, and left out."""
    for tool in body.objects("tools"):
        if tool.text("type") in (None, "custom"):
            name = tool.required(tool.text("name"), "name")
            function = {"name": name, "parameters": tool.object("input_schema") or {"type": "object"}}
            if description := tool.text("description"):
                function["description"] = description
            request.tools.append({"type": "function", "function": function})
    choice = body.within("tool_choice")
    if choice is None:
        return
    match kind := choice.text("type"):
        case "auto" | "none":
            request.tool_choice = kind
        case "any":
            request.tool_choice = "required"
        case "tool":
            request.tool_choice = {"type": "function", "function": {"name": choice.text("name")}}
        case _:
            raise choice.wrong("type", "auto, any, tool or none", kind)
    request.parallel_tool_calls = not choice.flag("disable_parallel_tool_use")


# what comes back


class _Writer:
    """Writes one answer. message: as it is so far."""

    def __init__(self, answer: Answers) -> None:
        self._answer = answer
        self._block: dict[str, Any] | None = None  # that is being written
        self._json = ""  # of a call's input
        self.message: dict[str, Any] = {
            "id": new_id("msg_"), "type": "message", "role": "assistant", "model": answer.model.name, "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": _usage(answer.timings),
        }  # fmt: skip

    async def events(self) -> AsyncIterator[bytes]:
        """The message, event by event."""
        message = self.message
        yield _event("message_start", message=message)
        async for item in self._answer:
            for piece in self._write(item):
                yield piece
        for piece in self._close():
            yield piece
        message["usage"] = _usage(self._answer.timings)
        delta = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
        yield _event("message_delta", delta=delta, usage=message["usage"])
        yield _event("message_stop")

    def _write(self, item: AnswerEvent) -> Iterator[bytes]:
        match item:
            case TextDelta(is_thought=True) if item.text:
                yield from self._begin("thinking", thinking="", signature="")
                yield self._delta("thinking_delta", "thinking", item.text)
            case TextDelta() if item.text:
                yield from self._begin("text", text="")
                yield self._delta("text_delta", "text", item.text)
            case ToolCall():
                yield from self._close()
                id = item.id if item.id.startswith("toolu_") else f"toolu_{item.id.removeprefix('call_')}"
                yield from self._begin("tool_use", id=id, name=item.name, input={})
            case ArgumentsDelta():
                self._json += item.text
                yield self._delta("input_json_delta", "partial_json", item.text)
            case Finish():
                self.message |= {"stop_reason": _REASONS[item.reason], "stop_sequence": item.stop}

    def _begin(self, kind: str, **facts: Any) -> Iterator[bytes]:
        """A block begins, unless one of this kind goes on."""
        if self._block and self._block["type"] == kind:
            return
        yield from self._close()
        self._block = {"type": kind, **facts}
        self.message["content"].append(self._block)
        yield _event("content_block_start", index=self._index, content_block=self._block)

    def _delta(self, kind: str, name: str, text: str) -> bytes:
        if self._block and name in self._block:
            self._block[name] += text
        return _event("content_block_delta", index=self._index, delta={"type": kind, name: text})

    def _close(self) -> Iterator[bytes]:
        block, self._block = self._block, None
        if block is None:
            return
        if block["type"] == "thinking":
            yield _event("content_block_delta", index=self._index, delta={"type": "signature_delta", "signature": ""})
        elif block["type"] == "tool_use":
            block["input"], self._json = _object(self._json), ""
        yield _event("content_block_stop", index=self._index)

    @property
    def _index(self) -> int:
        return len(self.message["content"]) - 1


def _object(text: str) -> dict[str, Any]:
    """A call's input; what the limit cut off is left out."""
    try:
        found = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {"value": found}


def _usage(timings: Timings) -> dict[str, int]:
    """Cached tokens are not among those of the input."""
    return {
        "input_tokens": timings.n_new,
        "cache_read_input_tokens": timings.n_cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": timings.n_answer,
    }


def all_routes() -> list[Route]:
    return routes(API, {"/v1/messages": messages, "/v1/messages/count_tokens": count_tokens})

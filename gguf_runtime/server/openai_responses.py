"""OpenAI's responses: what a body asks for. Codex speaks only this."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct, field

from .fields import Fields
from .http import ApiCall, Stream
from .openai import set_common
from .openai_response_events import ResponseWriter
from .sampling_fields import max_tokens, set_sampling, set_schema
from .vocabulary import AnswerRequest, Failure

Messages = list[dict[str, Any]]

_KEPT = 256  # responses that can be gone on from
_TEXTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")
_ROLES = ("system", "developer", "user", "assistant")


class Conversations(Struct):
    """The last responses, with the messages up to and including them, by who asked and id."""

    kept: OrderedDict[tuple[str, str], tuple[dict[str, Any], Messages]] = field(default_factory=OrderedDict)

    def keep(self, client: str, response: dict[str, Any], messages: Messages) -> None:
        self.kept[client, response["id"]] = response, messages
        while len(self.kept) > _KEPT:
            self.kept.popitem(last=False)

    def find(self, client: str, id: str) -> tuple[dict[str, Any], Messages]:
        """A response and its messages. Raises Failure."""
        if (client, id) not in self.kept:
            raise Failure("not_found", f"there is no response {id} (any more): the last {_KEPT} are kept in memory")
        return self.kept[client, id]


async def responses(call: ApiCall) -> Any:
    body, conversations = call.body, call.state.conversations
    messages = _conversation(call)
    answer = await call.begin(_request(call, messages))
    writer = ResponseWriter(answer, _told(body), tells_timings=bool(body.flag("timings_per_token")))

    async def events() -> AsyncIterator[bytes]:
        async for piece in writer.events():
            yield piece
        if writer.failure:
            call.http.scope["ggrun.error"] = writer.failure.kind
        elif body.flag("store") is not False:
            conversations.keep(call.client, writer.response, [*messages, writer.message()])

    if body.flag("stream"):
        return Stream(events(), answer.close)
    try:
        async for _ in events():
            pass
    finally:
        answer.close()
    if writer.failure:
        raise writer.failure
    return writer.response


async def count_response(call: ApiCall) -> Any:
    """How many tokens a response would be made from."""
    _, ids = await call.service.read(_request(call, _conversation(call)))
    return {"object": "response.input_tokens", "input_tokens": len(ids)}


async def response(call: ApiCall) -> Any:
    id, conversations = call.http.path_params["id"], call.state.conversations
    found, _ = conversations.find(call.client, id)
    if call.http.method == "DELETE":
        del conversations.kept[call.client, id]
        return {"id": id, "object": "response.deleted", "deleted": True}
    return found


def _conversation(call: ApiCall) -> Messages:
    """What the body goes on from, and adds. Raises Failure."""
    previous = call.body.text("previous_response_id")
    before = call.state.conversations.find(call.client, previous)[1] if previous else []
    return [*before, *_messages(call.body)]


def _told(body: Fields) -> dict[str, Any]:
    """What a response repeats of the body."""
    return {
        "tools": body.array("tools") or [],
        "tool_choice": body.any("tool_choice") or "auto",
        "parallel_tool_calls": body.flag("parallel_tool_calls") is not False,
        "text": body.object("text") or {"format": {"type": "text"}},
        "reasoning": body.object("reasoning") or {"effort": None, "summary": None},
        "temperature": body.real("temperature"),
        "top_p": body.real("top_p"),
        "max_output_tokens": body.whole("max_output_tokens"),
        "instructions": body.text("instructions"),
        "previous_response_id": body.text("previous_response_id"),
        "metadata": body.object("metadata") or {},
        "store": body.flag("store") is not False,
    }


def _request(call: ApiCall, messages: Messages) -> AnswerRequest:
    """Raises Failure."""
    body = call.body
    if instructions := body.text("instructions"):
        messages = [{"role": "system", "content": instructions}, *messages]
    if not any(message["role"] == "user" for message in messages):
        messages = [*messages, {"role": "user", "content": ""}]  # Codex's probe has none, and templates want one
    request = AnswerRequest(model=body.text("model") or "", messages=messages)
    set_sampling(request, body)
    set_common(request, call)
    request.max_tokens = max_tokens(body, "max_output_tokens")
    if "message.output_text.logprobs" in (body.array("include") or ()):
        request.n_logprobs = body.whole("top_logprobs", least=0, most=20) or 0
    _set_tools(request, body)
    _set_format(request, body)
    if reasoning := body.within("reasoning"):
        effort = reasoning.text("effort")
        if effort is not None:
            request.template |= {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}
    if request.tools and "json_schema" in request.sampling:
        raise Failure("invalid", "tools and a grammar for the answer exclude each other", field="tools")
    return request


def _messages(body: Fields) -> Messages:
    """The input's items as messages. Raises Failure."""
    value = body.any("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    messages: Messages = []
    thought = ""
    for item in body.objects("input"):
        match kind := item.text("type") or "message":
            case "message":
                role = item.required(item.text("role"), "role")
                if role not in _ROLES:
                    raise item.wrong("role", f"one of {', '.join(_ROLES)}", role)
                message = {"role": role, "content": _content(item, "content")}
                messages.append(message | ({"reasoning_content": thought} if thought and role == "assistant" else {}))
                thought = thought if role != "assistant" else ""
            case "function_call" | "custom_tool_call":
                _add_call(messages, item, thought)
                thought = ""
            case "function_call_output" | "custom_tool_call_output":
                id = item.required(item.text("call_id"), "call_id")
                messages.append({"role": "tool", "tool_call_id": id, "content": _content(item, "output")})
            case "reasoning":
                thought = _content(item, "content") or _content(item, "summary")
            case "item_reference":
                raise Failure("invalid", "item_reference: send the item itself, or previous_response_id", field="input")
            case _:
                raise item.wrong("type", "a kind of item that is known here", kind)
    return messages


def _add_call(messages: Messages, item: Fields, thought: str) -> None:
    """A call, to those of the same message. That of a custom tool, which another server offered, has a text only."""
    arguments = item.text("arguments") or "{}"
    if item.text("type") == "custom_tool_call":
        arguments = json.dumps({"input": item.text("input") or ""}, ensure_ascii=False)
    function = {"name": item.required(item.text("name"), "name"), "arguments": arguments}
    call = {"id": item.required(item.text("call_id"), "call_id"), "type": "function", "function": function}
    if not (messages and messages[-1]["role"] == "assistant"):
        messages.append({"role": "assistant", "content": None})
    if thought:
        messages[-1]["reasoning_content"] = thought
    messages[-1].setdefault("tool_calls", []).append(call)


def _content(item: Fields, name: str) -> str:
    """Text, or parts that are text."""
    value = item.any(name)
    if value is None or isinstance(value, str):
        return value or ""
    texts = []
    for part in item.objects(name):
        if part.text("type") not in _TEXTS:
            raise part.wrong("type", "text: nothing else is understood", part.any("type"))
        texts.append(part.text("text", "refusal") or "")
    return "".join(texts)


def _set_tools(request: AnswerRequest, body: Fields) -> None:
    """Functions; tools of other types are the server's own elsewhere, and left out."""
    for tool in body.objects("tools"):
        if tool.text("type") == "function":
            tool.required(tool.text("name"), "name")
            names = ("name", "description", "parameters", "strict")
            function = {name: tool.any(name) for name in names if name in tool}
            request.tools.append({"type": "function", "function": function})
    choice = body.any("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function":
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice is not None and not isinstance(choice, dict) and choice not in ("auto", "none", "required"):
        raise body.wrong("tool_choice", "auto, none, required, or an object", choice)
    request.tool_choice = choice or "auto"
    request.parallel_tool_calls = body.flag("parallel_tool_calls") is not False


def _set_format(request: AnswerRequest, body: Fields) -> None:
    text = body.within("text")
    form = text and text.within("format")
    match kind := form.text("type") if form else None:
        case None | "text":
            pass
        case "json_object":
            set_schema(request, {"type": "object"}, "text.format")
        case "json_schema" if form:
            set_schema(request, form.required(form.any("schema"), "schema"), "text.format.schema")
        case _ if form:
            raise form.wrong("type", "text, json_object or json_schema", kind)

"""Messages as clients send them, made whole: what some leave out is there, what says nothing is not; and the
system's joined or moved, for templates that take one at the beginning, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Messages = list[dict[str, Any]]

_REASONING = ("reasoning_content", "thinking", "reasoning")  # what people call it, the best name first


class ChatError(Exception):
    """A template that cannot be compiled, or that refuses or fails on a conversation."""


def whole(message: Message) -> dict[str, Any]:
    """The message without what is null in it, with its reasoning under both names that templates read, and with calls
    and results as they are written since there are tools and not functions."""
    if not isinstance(message, Mapping):
        raise ChatError(f"a message is to be an object with role and content, and not {type(message).__name__}")
    if not isinstance(content := message.get("content"), str | Sequence | None) or isinstance(content, bytes):
        raise ChatError(f"a message's content is to be text or a list of parts, and not {type(content).__name__}")
    message = {key: value for key, value in message.items() if value is not None or key == "content"}
    if message.get("role") == "function":
        message["role"] = "tool"
    if (function := message.pop("function_call", None)) and not message.get("tool_calls"):
        message["tool_calls"] = [{"function": function}]
    if not message.get("tool_calls"):  # some clients send an empty list, which templates take for calls
        message.pop("tool_calls", None)
    elif isinstance(calls := message["tool_calls"], Sequence):
        message["tool_calls"] = [_whole_call(call) for call in calls]
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def within_user(messages: Messages) -> Iterator[dict[str, Any]]:
    """System messages as the beginning of the user's message that comes next, or as one of the user's."""
    held: list[Any] = []
    for message in messages:
        if message.get("role") == "system":
            held.append(message.get("content") or "")
            continue
        if held and message.get("role") == "user":
            message, held = {**message, "content": _joined([*held, message.get("content") or ""])}, []
        yield message
    if held:
        yield {"role": "user", "content": _joined(held)}


def joined(messages: Messages) -> Messages:
    """Messages of one role as one, if there are any."""
    return [{**messages[0], "content": _joined([message["content"] for message in messages])}] if messages else []


def _whole_call(call: Any) -> Any:
    """A call with what some clients leave out: its type, and arguments where there are none."""
    if not isinstance(call, Mapping):
        return call
    arguments = arguments_of(call)
    call = {"type": "function", **call}
    return _with(call, {} if arguments is None else "{}") if arguments in (None, "", "null") else call


def _joined(contents: list[Any]) -> Any:
    if all(isinstance(content, str) for content in contents):
        return "\n".join(contents)
    lists = [[{"type": "text", "text": content}] if isinstance(content, str) else content for content in contents]
    return [part for parts in lists for part in parts]


def part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type", "no type") if isinstance(part, Mapping) else type(part).__name__
    raise ChatError(f"a message has a part of type {kind!r}, and only text is understood")


def function_of(call: Message) -> Message:
    found = call.get("function")
    return found if isinstance(found, Mapping) else call


def arguments_of(call: Message) -> Any:
    return function_of(call).get("arguments")


def with_arguments(call: Message, as_object: bool) -> dict[str, Any]:
    """The call with its arguments as an object, if they are JSON of one, or as JSON."""
    arguments = arguments_of(call)
    if as_object and isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):  # what the model wrote before, perhaps
            return dict(call)
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif not as_object and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return _with(call, arguments)


def _with(call: Message, arguments: Any) -> dict[str, Any]:
    if function_of(call) is call:
        return {**call, "arguments": arguments}
    return {**call, "function": {**function_of(call), "arguments": arguments}}

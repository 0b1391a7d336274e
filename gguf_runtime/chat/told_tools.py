"""Tools in conversations whose template knows none, or only some of them: what it would not show is told in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .marks import Marked
from .tool_format import Calls, Json, Python, Slot

Message = Mapping[str, Any]
Mark = Callable[[str], str]

_INTRODUCTION = (
    "You can call functions. Each of these lines describes one, in JSON:\n\n{tools}\n\n"
    "To call a function, write its name and its arguments in exactly this form, and nothing after it:\n\n{example}"
)
_EXAMPLE = "function_name", {"argument_name": "value"}
_RESULT = "<tool_response>\n{}\n</tool_response>"


@dataclass(frozen=True)
class Shown:
    """What a template shows."""

    tools: bool
    calls: bool
    results: bool


def told(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], calls: Calls, shown: Shown, mark: Mark
) -> list[Message]:
    """The messages, with what the template does not show in their text. mark: puts marks into what others wrote."""
    if not calls.several:
        messages = list(_one_by_one(messages))
    new: list[Message] = []
    for message in messages:
        if not isinstance(message, Mapping):
            pass  # for the renderer to refuse
        elif message.get("tool_calls") and not shown.calls:
            message = _said(message, calls, mark)
        elif message.get("role") == "tool" and not shown.results:
            text = _RESULT.format(_text(message.get("content")))
            if new and _is_result(new[-1]):
                text = f"{new.pop()['content']}\n{text}"
            message = {"role": "user", "content": text}
        new.append(message)
    return _introduced(new, tools, calls, mark) if tools and not shown.tools else new


def _one_by_one(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages with one call in each, before its result: templates may show only the first of several."""
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        if not isinstance(calls, list) or len(calls) < 2:
            yield message
            continue
        n = next((i for i, other in enumerate(rest) if other.get("role") != "tool"), len(rest))
        results, rest = rest[:n], rest[n:]
        for call in calls:
            yield {**message, "tool_calls": [call]}
            message = {"role": "assistant", "content": ""}
            id = call.get("id") if isinstance(call, Mapping) else None
            own = next((result for result in results if result.get("tool_call_id") in (id, None)), None)
            if own is not None:
                results.remove(own)
                yield own
        yield from results


def _is_result(message: Message) -> bool:
    """Whether a user's message is made of results."""
    start, end = _RESULT.split("{}")
    content = message.get("content")
    return (
        message.get("role") == "user"
        and isinstance(content, str)
        and content.startswith(start)
        and content.endswith(end)
    )


def _introduced(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], calls: Calls, mark: Mark
) -> list[Message]:
    """The messages after a system message that tells of tools."""
    system, rest = "", list(messages)
    if rest and rest[0].get("role") in ("system", "developer"):
        system = mark(_text(rest.pop(0).get("content"))) + "\n\n"
    described = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = _INTRODUCTION.format(tools=mark(described), example=written(calls, *_EXAMPLE, mark))
    return [{"role": "system", "content": Marked(system + text)}, *rest]


def _said(message: Message, calls: Calls, mark: Mark) -> Message:
    """The message with its calls as content."""
    texts: list[str] = []
    for call in message["tool_calls"]:
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        arguments = function.get("arguments") or {}
        texts.append(written(calls, str(function.get("name")), arguments, mark, str(call.get("id") or ""), len(texts)))
    content = mark(_text(message.get("content")))
    several = calls.separator.join(texts)
    text = f"{content}\n{calls.section_open}{several}{calls.section_close}".lstrip("\n")
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": Marked(text)}


def written(calls: Calls, name: str, arguments: Any, mark: Mark, id: str = "", index: int = 0) -> str:
    """A call as the model writes it."""
    values: dict[Slot, str] = {
        Slot.NAME: mark(name),
        Slot.ID: mark(id),
        Slot.INDEX: str(index),
        Slot.ARGUMENTS: mark(_arguments(calls, arguments)),
    }
    return "".join(values[part] if isinstance(part, Slot) else part for part in calls.parts)


def _arguments(calls: Calls, arguments: Any) -> str:
    match calls.arguments:
        case Python() if not isinstance(arguments, str):
            return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
        case Json() if isinstance(arguments, str):
            return arguments
    return json.dumps(arguments, ensure_ascii=False)


def _text(content: Any) -> str:
    """Content as text; parts in lines."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "\n".join(str(part.get("text", "")) if isinstance(part, Mapping) else str(part) for part in content)
    return str(content or "")


def completed(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The tools with what some templates take for granted."""
    return [_completed(tool, is_tool=True) for tool in tools]


def _completed(value: Any, is_tool: bool = False) -> Any:
    """Functions and schemas with descriptions, and objects with what else may be in them."""
    if isinstance(value, list):
        return [_completed(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    new = {key: _completed(item) for key, item in value.items()}
    if is_tool and "function" in new:
        new["function"] = {"description": "", "parameters": {"type": "object", "properties": {}}, **new["function"]}
    for schemas in (new.get("properties"), {"": new.get("items")}):
        for schema in schemas.values() if isinstance(schemas, dict) else ():
            if isinstance(schema, dict):
                schema.setdefault("description", "")
                if schema.get("type") == "object":
                    schema.setdefault("additionalProperties", {})
    return new

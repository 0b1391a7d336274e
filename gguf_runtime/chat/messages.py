"""Messages as clients send them, in the form that a template reads.

Templates differ in what they take: text as a string or in parts, a call's arguments as an object or as JSON, no content
beside calls as null or "", a result by its call's id or its function's name, a system message or none. What a template
takes is found out by having it render small conversations with words that occur nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import product
from typing import Any

from .whole_messages import (
    ChatError,
    Message,
    Messages,
    arguments_of,
    function_of,
    joined,
    part_text,
    whole,
    with_arguments,
    within_user,
)

__all__ = ["ROLES", "ChatError", "Message", "Messages", "Reader", "checked"]

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT, _MORE, _NAME, _KEY, _VALUE = "qmtextq", "qmmoreq", "qmnameq", "qmkeyq", "qmvalueq"  # our words
_ID, _LONG_ID = "call00001", "call_0123456789abcdef"
_MISSING = object()
_USER = {"role": "user", "content": _TEXT}
_CONTENTS = (None, _MISSING, "")


def checked(messages: Any) -> Messages:
    """Messages of a user's file: a list of objects with a known role and text, or parts. Raises ValueError."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list of one message or more")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"messages[{i}] must be an object with role and content, not {message!r}")
        if (role := message.get("role")) not in ROLES:
            raise ValueError(f"messages[{i}].role must be one of {', '.join(ROLES)}, not {role!r}")
        if not isinstance(content := message.get("content"), str | list | None):
            raise ValueError(f"messages[{i}].content must be text or a list of parts, not {content!r}")
    return messages


class Reader:
    """What one template takes, and messages in that form.

    render: gives the text of messages, or "" where the template refuses them or prints a name or id that is not there.
    constants: the texts that the template compares with.
    """

    def __init__(self, render: Callable[[Sequence[Message]], str], constants: frozenset[str]) -> None:
        self._render, self._constants = render, constants
        self._takes_parts = cache(self._try_parts)

    def adapt(self, messages: Sequence[Message]) -> Messages:
        """The messages as the template takes them. Raises ChatError."""
        adapted = [whole(message) for message in messages]
        for message in adapted:
            self._set_role(message)
            self._set_content(message)
        adapted = self._placed(adapted)
        if any(message.get("tool_calls") or message.get("role") == "tool" for message in adapted):
            self._set_calls(adapted)
        return adapted

    # what is found out

    @cached_property
    def _takes_system(self) -> bool:
        """Also where it does not take a conversation without one either."""
        shown = self._render([{"role": "system", "content": _MORE}, _USER])
        return _MORE in shown or _TEXT not in self._render([_USER])

    @cached_property
    def _takes_systems(self) -> bool:
        """Two at the beginning, and one further on."""
        first, second, later = ({"role": "system", "content": text} for text in (_MORE, _NAME, _KEY))
        shown = self._render([first, second, _USER, {"role": "assistant", "content": _VALUE}, later, _USER])
        return all(text in shown for text in (_MORE, _NAME, _KEY))

    @cached_property
    def _takes_developer(self) -> bool:
        """Only where the template names the role: others would show it to models that do not know it."""
        if "developer" not in self._constants:
            return False
        return _MORE in self._render([{"role": "developer", "content": _MORE}, _USER])

    @cached_property
    def _takes_strings(self) -> bool:
        return _TEXT in self._render([_USER]) or not self._takes_parts("user")

    def _try_parts(self, role: str) -> bool:
        parts = [{"type": "text", "text": _TEXT}, {"type": "text", "text": _MORE}]
        before, after = {
            "user": ([], []),
            "assistant": ([_USER], [_USER]),
            "tool": ([_USER, _calling()], []),
        }.get(role, ([], [_USER]))
        message = {"role": role, "content": parts, **({"tool_call_id": _ID, "name": _NAME} if role == "tool" else {})}
        shown = self._render([*before, message, *after])
        return _MORE in shown and shown.count(_TEXT) > len(before and after) and not any(
            written in shown for written in (f"'{_MORE}'", f'"{_MORE}"', f'\\"{_MORE}')
        )  # fmt: skip

    @cached_property
    def _call_forms(self) -> list[tuple[Any, bool]]:
        """Of contents beside calls, and whether arguments are objects, what shows calls well."""
        forms = product(_CONTENTS, (True, False))
        shown = {form: self._render([_USER, _calling(*form), _result()]) for form in forms}
        n_none = min((text.count("None") for text in shown.values() if text), default=0)
        taken = [form for form, text in shown.items() if text and text.count("None") == n_none]
        return [form for form in taken if _shows_call(shown[form])] or taken

    @cached_property
    def _wants_short_ids(self) -> bool:
        content, is_object = self._call_forms[0]
        call = _calling(content, is_object, _LONG_ID)
        return not self._render([_USER, call, {**_result(), "tool_call_id": _LONG_ID}])

    @cached_property
    def _wants(self) -> set[str]:
        """The keys without which a result is not shown."""
        call = _calling(*self._call_forms[0])
        wanted = set()
        for key in ("tool_call_id", "name"):
            less = {name: value for name, value in _result().items() if name != key}
            if _TEXT not in self._render([{"role": "user", "content": ""}, call, less]):
                wanted.add(key)
        return wanted

    # what is done

    def _set_role(self, message: dict[str, Any]) -> None:
        if message.get("role") == "developer" and not self._takes_developer:
            message["role"] = "system"

    def _set_content(self, message: dict[str, Any]) -> None:
        content = message.get("content")
        if isinstance(content, str):
            if not self._takes_strings:
                message["content"] = [{"type": "text", "text": content}]
        elif isinstance(content, Sequence):
            texts = [part_text(part) for part in content]
            if not self._takes_parts(message.get("role", "user")) or (self._takes_strings and not texts):
                message["content"] = "\n".join(texts)
            else:
                message["content"] = [{"type": "text", "text": text} for text in texts]
        elif content is None and not message.get("tool_calls"):
            message["content"] = ""

    def _placed(self, messages: Messages) -> Messages:
        """The messages, those of the system joined or moved where the template does not show them all."""
        systems = [i for i, message in enumerate(messages) if message.get("role") == "system"]
        if systems and not self._takes_system:
            return list(within_user(messages))
        if systems and systems != [0] and not self._takes_systems:
            n_first = next((i for i, message in enumerate(messages) if message.get("role") != "system"), len(messages))
            return [*joined(messages[:n_first]), *within_user(messages[n_first:])]
        return messages

    def _set_calls(self, messages: Messages) -> None:
        """Calls and results in a form that the template shows, if there is one."""
        if not self._call_forms:
            return
        for message in messages:
            if message.get("tool_calls"):
                self._set_form(message)
        ids = _Ids(messages)
        for message in messages:
            if message.get("role") == "tool":
                bare = message.get("tool_call_id") is None and message.get("name") is None
                for key in ("tool_call_id", "name") if bare else self._wants:
                    if message.get(key) is None and (found := ids.of_result(message, key)):
                        message[key] = found
        if ids.any_long and self._wants_short_ids:
            ids.shorten()

    def _set_form(self, message: dict[str, Any]) -> None:
        content = message.get("content", _MISSING)
        calls = message["tool_calls"]
        objects = all(not isinstance(arguments_of(call), str) for call in calls)
        forms = self._call_forms if content in _CONTENTS else [(content, form[1]) for form in self._call_forms]
        if (content, objects) in forms:
            return
        alike = [form for form in forms if form[1] == objects] + [form for form in forms if form[0] == content] + forms
        content, objects = alike[0]
        message.pop("content", None)
        if content is not _MISSING:
            message["content"] = content
        message["tool_calls"] = [with_arguments(call, objects) for call in calls]


class _Ids:
    """Calls and their results, matched."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._calls: Messages = []  # copies, which take the place of those that were sent
        self._open: Messages = []  # those without a result so far
        for message in messages:
            if message.get("tool_calls"):
                message["tool_calls"] = [dict(call) for call in message["tool_calls"]]
                for call in message["tool_calls"]:
                    self._calls.append(call)
                    if not call.get("id"):
                        call["id"] = f"call{len(self._calls):05}"

    @property
    def any_long(self) -> bool:
        return any(len(str(call["id"])) != len(_ID) for call in self._calls)

    def of_result(self, result: Message, key: str) -> str | None:
        """The name or id that a result lacks."""
        place = next(i for i, message in enumerate(self._messages) if message is result)
        before = [call for message in self._messages[:place] for call in message.get("tool_calls") or ()]
        named = [call for call in before if call["id"] == result.get("tool_call_id")]
        if not named:
            answered = {message.get("tool_call_id") for message in self._messages[:place]}
            waiting = [call for call in before if call["id"] not in answered]
            alike = [call for call in waiting if result.get("name") in (None, function_of(call).get("name"))]
            named = (alike or waiting)[:1]
        if not named:
            return None
        return function_of(named[-1]).get("name") if key == "name" else named[-1]["id"]

    def shorten(self) -> None:
        new = {call["id"]: f"call{n:05}" for n, call in enumerate(self._calls, 1)}
        for call in self._calls:
            call["id"] = new[call["id"]]
        for message in self._messages:
            if message.get("tool_call_id") in new:
                message["tool_call_id"] = new[message["tool_call_id"]]


def _calling(content: Any = "", is_object: bool = True, id: str = _ID) -> dict[str, Any]:
    """An assistant's message with a call of our words."""
    arguments = {_KEY: _VALUE}
    function = {"name": _NAME, "arguments": arguments if is_object else json.dumps(arguments)}
    message = {"role": "assistant", "tool_calls": [{"id": id, "type": "function", "function": function}]}
    return message if content is _MISSING else {**message, "content": content}


def _result() -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": _ID, "name": _NAME, "content": _TEXT}


def _shows_call(shown: str) -> bool:
    written_twice = f'\\"{_KEY}', f"'{_KEY}'"
    return all(word in shown for word in (_NAME, _KEY, _VALUE)) and not any(word in shown for word in written_twice)

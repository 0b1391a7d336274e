"""What is read in an answer: thoughts, content, and calls of tools, as events while it is made and as a message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Thought(NamedTuple):
    """More of what the model thinks."""

    text: str


class Content(NamedTuple):
    """More of what the model says."""

    text: str


class CallBegin(NamedTuple):
    """A call begins. index: of the call in this answer, from 0. id: as the format has it, or one made up for it."""

    index: int
    id: str
    name: str


class CallArguments(NamedTuple):
    """More of a call's arguments. Joined, they are JSON of an object, unless the model wrote none."""

    index: int
    text: str


class CallEnd(NamedTuple):
    """A call is whole. One that the answer's limit cut off has no end."""

    index: int


Event = Thought | Content | CallBegin | CallArguments | CallEnd


class Answer:
    """The message that events add up to, as OpenAI has it: arguments are text, reasoning is reasoning_content."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.message: dict[str, Any] = {"role": "assistant", "content": ""}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """The message goes on with this."""
        message = self.message
        match event:
            case Content(text):
                message["content"] += text
            case Thought(text):
                message["reasoning_content"] = message.get("reasoning_content", "") + text
            case CallBegin(_, id, name):
                call = {"id": id, "type": "function", "function": {"name": name, "arguments": ""}}
                message.setdefault("tool_calls", []).append(call)
            case CallArguments(index, text):
                message["tool_calls"][index]["function"]["arguments"] += text

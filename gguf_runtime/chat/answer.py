"""What is read in an answer: thoughts, content, and calls of tools, as events while it is made and as a message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Thought:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of what the model says."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins. index: of the call in this answer, from 0. id: as the format has it, or one made up for it."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments. Joined, they are JSON of an object once the call is whole, or what the model wrote
    in its place."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
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

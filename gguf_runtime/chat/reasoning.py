"""What a model thinks before it answers, told apart from the answer while both are being made."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..tokenizer import THOUGHTS
from .answer import Content, Event, Thought
from .tool_format import AnswerFormat

#: How models begin and end their reasoning.
TAGS = {
    **THOUGHTS,
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|channel|>analysis<|message|>": "<|end|><|start|>assistant<|channel|>final<|message|>",  # gpt-oss
}
#: Answers of which no more is known than that there may be thoughts; and such as are passed on as they are.
THINKING, PLAIN = AnswerFormat(thoughts=tuple(TAGS.items())), AnswerFormat()


class Span(NamedTuple):
    kind: Literal["reasoning", "answer"]
    text: str


def spans(events: list[Event]) -> list[Span]:
    """What was thought and said."""
    kinds: dict[type, Literal["reasoning", "answer"]] = {Thought: "reasoning", Content: "answer"}
    return [Span(kinds[type(event)], event.text) for event in events if isinstance(event, Thought | Content)]

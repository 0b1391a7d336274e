"""The parser of answers: text as it comes, to thoughts, content and calls of tools."""

from __future__ import annotations

from .answer import Content, Event


class AnswerParser:
    """Sorts an answer's text, in pieces of any length, into events. The events of a text are the same, up to where
    texts are cut, however it comes in pieces, and none is ever taken back. What does not parse is content.
    """

    def push(self, text: str) -> list[Event]:
        """What is certain now that this text has come. No event has an empty text."""
        return [Content(text)] if text else []

    def flush(self) -> list[Event]:
        """What was held back, at the answer's end. A call that is not whole gets no CallEnd."""
        return []

"""From the pieces of an answer to events: what is said, what is thought, and which tools are called.

The place for the parser of tool calls: `_events` gets text as it comes, and gives Text, ToolCall and Arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..chat.reasoning import ReasoningSplitter, Span
from .protocol import Ended, Output
from .vocabulary import Event, Finish, Reason, Request, Text, Token


class AnswerParser:
    """Reads one answer. n_thought: tokens of thoughts so far."""

    def __init__(self, index: int, request: Request, prompt: str) -> None:
        """prompt: the rendered conversation, whose end may have begun a thought."""
        self._index = index
        self._splitter = ReasoningSplitter(prompt, split=request.splits_thoughts and request.messages is not None)
        self._tells_tokens = request.n_logprobs is not None
        self._tokens: list[Token] = []  # of which no text has come yet
        self.n_thought = 0

    def push(self, output: Output) -> list[Event]:
        """What is certain now that a step has given this."""
        events: list[Event] = []
        for token, text, logprob, top in output.pieces:
            if token is not None:
                self._tokens.append(Token(token, logprob, top))
                self.n_thought += bool(self._splitter.closing)
            if text:
                events += self._events(self._splitter.push(text))
        if output.ended and not output.ended.error:
            events += self._finish(output.ended)
        return events

    def _finish(self, ended: Ended) -> list[Event]:
        events = self._events(self._splitter.flush())
        if self._tokens and self._tells_tokens:
            events.append(self._text("", False))
        return [*events, Finish(self._index, _reason(ended.reason), ended.stop)]

    def _events(self, spans: Iterable[Span]) -> list[Event]:
        return [self._text(span.text, span.kind == "reasoning") for span in spans]

    def _text(self, text: str, is_thought: bool) -> Text:
        tokens, self._tokens = self._tokens, []
        return Text(self._index, text, tokens, is_thought)


def _reason(name: str) -> Reason:
    match name:
        case "stop" | "length" | "context":
            return name
    return "end"

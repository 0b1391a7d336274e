"""From the pieces of an answer to events: what is said, what is thought, and which tools are called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..chat import answer
from ..chat.parser import AnswerParser
from ..chat.reasoning import PLAIN
from .protocol import Ended, Output
from .vocabulary import AnswerEvent, AnswerRequest, ArgumentsDelta, Finish, Reason, TextDelta, Token, ToolCall

if TYPE_CHECKING:
    from ..chat.templates import AnswerReading
    from .texts import ModelTexts

_SPACE = r"/[ \n]{0,4}/"


def readings(texts: ModelTexts, request: AnswerRequest, prompt: str) -> list[AnswerReading | None]:
    """How each of the request's answers is read; None for plain text.

    prompt: the rendered conversation, whose end may have begun a thought. Raises ValueError, ChatError.
    """
    if request.messages is None or not (request.splits_thoughts or request.tools):
        return [None] * request.n
    return [
        texts.templates.reader(
            prompt, request.tools, tool_choice=request.tool_choice, parallel=request.parallel_tool_calls
        )
        for _ in range(request.n)
    ]


def after_thought(texts: ModelTexts, closing: str, schema: Any) -> str:
    """A grammar, in llguidance's notation, for JSON after a thought that the prompt has begun. Raises GrammarError.

    closing: what ends the thought.
    """
    from ..chat.rules import GrammarRules
    from ..sampling.constraint import json_text

    tokenizer = texts.tokenizer
    rules = GrammarRules({tokenizer.piece(id): id for id in tokenizer.control_ids | tokenizer.eog_ids})
    return rules.text(f"{rules.up_to(closing)} {_SPACE} {rules.add(f'%json {json_text(schema)}')}")


class AnswerReader:
    """Reads one answer. n_thought: tokens of thoughts so far; done: there need be no more of it."""

    def __init__(self, index: int, request: AnswerRequest, reading: AnswerReading | None, fills_context: bool) -> None:
        """fills_context: its length is limited by the context alone."""
        self._index, self._fills_context = index, fills_context
        self._parser = reading.parser if reading else AnswerParser(PLAIN)
        self._ends = reading.stop if reading else ()
        self._splits_thoughts = request.splits_thoughts is not False
        self._tells_tokens = request.tells_tokens or request.n_logprobs is not None
        self._tokens: list[Token] = []  # of which no text has come yet
        self._thinks = self._calls = False
        self.n_thought = 0

    @property
    def done(self) -> bool:
        return self._parser.done

    def push(self, output: Output) -> list[AnswerEvent]:
        """What is certain now that a step has given this."""
        events: list[AnswerEvent] = []
        for token, text, logprob, top in output.pieces:
            if token is not None:
                self._tokens.append(Token(token, logprob, top))
            if text:
                events += self._events(self._parser.push(text))
            self.n_thought += token is not None and self._thinks
        if output.ended and not output.ended.error:
            events += self.finish(output.ended)
        return events

    def finish(self, ended: Ended) -> list[AnswerEvent]:
        events = self._events(self._parser.flush())
        if self._tokens and self._tells_tokens:
            events.append(self._text("", False))
        return [*events, self._finish(ended)]

    def _finish(self, ended: Ended) -> Finish:
        reason, stop = ended.reason, ended.stop
        if stop in self._ends:
            reason, stop = "end", None
        if reason == "length" and self._fills_context:
            reason = "context"
        if self._calls and reason in ("end", "stop"):
            reason = "tool_calls"
        return Finish(self._index, _REASONS[reason], stop)

    def _events(self, found: Iterable[answer.Event]) -> list[AnswerEvent]:
        events: list[AnswerEvent] = []
        for event in found:
            self._thinks = isinstance(event, answer.Thought)
            match event:
                case answer.Content(text):
                    events.append(self._text(text, False))
                case answer.Thought(text):
                    events.append(self._text(text, self._splits_thoughts))
                case answer.CallBegin(index, id, name):
                    self._calls = True
                    events.append(ToolCall(self._index, index, id, name))
                case answer.CallArguments(index, text):
                    events.append(ArgumentsDelta(self._index, index, text))
        return events

    def _text(self, text: str, is_thought: bool) -> TextDelta:
        tokens, self._tokens = self._tokens, []
        return TextDelta(self._index, text, tokens, is_thought)


_REASONS: dict[str, Reason] = {
    "end": "end", "stop": "stop", "length": "length", "context": "context", "tool_calls": "tool_calls",
}  # fmt: skip

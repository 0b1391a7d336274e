"""The parser of answers: text as it comes, to thoughts, content and calls of tools."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from .answer import CallArguments, CallBegin, CallEnd, Content, Event, Thought
from .call_reader import CallReader
from .cursor import Mismatch, Reading, TextCursor, any_of
from .schemas import Schema
from .tool_format import AnswerFormat, MessageTurns

_LETTERS = string.ascii_letters + string.digits
_MAX_HEADER = 400
_random = random.SystemRandom()


def new_id() -> str:
    """An id for a call whose format has none."""
    return "call_" + "".join(_random.choices(_LETTERS, k=24))


class AnswerParser:
    """Sorts an answer's text, in pieces of any length, into events. The events of a text are the same, up to where
    texts are cut, however it comes in pieces, and none is ever taken back. What does not parse is content.

    done: there is a call, and more than one is not wanted: what comes now is left out, and need not be made.
    """

    def __init__(
        self,
        form: AnswerFormat,
        tools: Mapping[str, Any] | None = None,
        *,
        several: bool = True,
        prompt: str = "",
        new_id: Callable[[], str] = new_id,
    ) -> None:
        """tools: the schemas of their arguments, by name; None: nothing is read as a call. several: whether there may
        be more than one call. prompt: the rendered conversation, whose end may have begun the answer."""
        self.done = False
        self._form, self._several = form, several
        self._cursor, self._events = TextCursor(), list[Event]()
        self._close = ""  # what ends the thought that goes on
        self._space = ""  # white space that is left out where a thought or content ends
        self._after_tag = self._has_said = False
        self._n_calls, self._is_open = 0, False
        schemas = {} if tools is None else {name: Schema(schema) for name, schema in tools.items()}
        self._readers = [] if tools is None else [
            CallReader(calls, self._cursor, schemas, self._begin_call, self._add_arguments, new_id)
            for calls in form.calls
        ]  # fmt: skip
        self._makes_calls, self._new_id = tools is not None, new_id
        self._triggers = {text: reader for reader in reversed(self._readers) for text in reader.triggers}
        self._run: Iterator[None] = self._turns(form.turns) if form.turns else self._scan("")
        self._begin(prompt)

    @property
    def closing(self) -> str:
        """What ends the thought that goes on; else nothing."""
        return self._close

    def push(self, text: str) -> list[Event]:
        """What is certain now that this text has come. No event has an empty text."""
        if not text or self._cursor.ended:
            return []
        self._cursor.feed(text)
        next(self._run, None)
        return self._taken()

    def flush(self) -> list[Event]:
        """What was held back, at the answer's end. A call that is not whole gets no CallEnd."""
        if not self._cursor.ended:
            self._cursor.ended = True
            for _ in self._run:
                pass
            if not self._close and not (self._n_calls and not self._has_said):
                self._emit(self._space)
        return self._taken()

    def _begin(self, prompt: str) -> None:
        """Read what the prompt has of the answer. Calls after the last header are an earlier answer's."""
        header = self._form.header
        at = prompt.rfind(header) if header else -1
        begun = prompt[at + len(header) :]
        if at < 0 or any(trigger in begun for calls in self._form.calls if (trigger := calls.trigger)):
            begun = self._opened(prompt)
        self.push(begun)
        self._space = ""

    def _opened(self, prompt: str) -> str:
        """The beginning of thoughts at the end of a prompt."""
        end = prompt.rstrip()
        return next((open for open, _ in self._form.thoughts if open and end.endswith(open)), "")

    def _taken(self) -> list[Event]:
        """The events since the last time, texts of one kind joined."""
        taken: list[Event] = []
        for _, group in groupby(self._events, lambda event: (type(event), getattr(event, "index", 0))):
            events = list(group)
            if len(events) == 1 or isinstance(events[0], CallBegin | CallEnd):
                taken += events
            else:
                texts = (event.text for event in events if not isinstance(event, CallBegin | CallEnd))
                taken.append(replace(events[0], text="".join(texts)))
        self._events.clear()
        return taken

    # what goes out

    def _say(self, text: str) -> None:
        """More of the thought, or content, that goes on."""
        if self._after_tag:
            text = text.lstrip("\n")
            self._after_tag = not text
        if not text or text.isspace():
            self._space += text
            return
        end = text.rstrip()
        self._emit(self._space + end)
        self._space = text[len(end) :]

    def _emit(self, text: str) -> None:
        if text and not self.done:
            self._has_said |= not self._close
            self._events.append(Thought(text) if self._close else Content(text))

    def _set_thought(self, close: str) -> None:
        """A thought begins, or ends."""
        self._close, self._space, self._after_tag = close, "", True

    def _begin_call(self, id: str, name: str) -> None:
        self._space, self._is_open = "", True
        self._cursor.held = None
        self._has_said = False
        if not self.done:
            self._events.append(CallBegin(self._n_calls, id, name))

    def _add_arguments(self, text: str) -> None:
        if text and not self.done:
            self._events.append(CallArguments(self._n_calls, text))

    def _end_call(self) -> None:
        if not self.done:
            self._events.append(CallEnd(self._n_calls))
        self._n_calls += 1
        self._after_tag = True
        self._is_open, self.done = False, not self._several

    # what comes in

    def _scan(self, *ends: str) -> Reading[str]:
        """Thoughts, content and calls up to any of these, or the end; gives which it was."""
        cursor = self._cursor
        while True:
            if not self._has_said and not self._close:
                for reader in self._readers:
                    if reader.is_bare and (yield from self._starts_bare(reader)):
                        yield from self._calls(reader, "")
            literals = tuple(filter(None, (*self._watched(), *ends)))
            found = any_of(literals).search(cursor.text, cursor.at)
            if not found:
                self._say(cursor.take(cursor.certain(*(() if cursor.ended else literals))))
                if cursor.ended:
                    return ""
                yield
                continue
            had_said = self._has_said
            self._say(cursor.take(found.start() - cursor.at))
            if self._has_said and not had_said:
                continue  # other markers mean something now
            marker = yield from cursor.first_of(literals)
            if marker in ends:
                cursor.take(len(marker))
                return marker
            yield from self._mark(marker)

    def _watched(self) -> list[str]:
        """The markers that mean something now."""
        if self._close:
            return [self._close, *self._triggers]
        opens = [] if self._has_said else [text for pair in self._form.thoughts for text in pair]
        return [*opens, *self._form.wrappers, *self._triggers]

    def _mark(self, marker: str) -> Reading[None]:
        """What a marker means."""
        if marker in self._triggers and marker != self._close:
            yield from self._calls(self._triggers[marker], marker)
            return
        self._cursor.take(len(marker))
        if self._close:
            self._set_thought("")
        elif marker not in self._form.wrappers:
            self._set_thought(dict(self._form.thoughts).get(marker, ""))
        else:
            self._after_tag = not self._has_said

    def _starts_bare(self, reader: CallReader) -> Reading[bool]:
        """Whether an answer begins like a call that has no marker."""
        return bool((yield from self._cursor.first_of((reader.bare,))))

    def _calls(self, reader: CallReader, marker: str) -> Reading[None]:
        """Calls one after the other, or content that only begins like one."""
        cursor = self._cursor
        cursor.held = cursor.at
        try:
            yield from reader.begin(marker)
            while True:
                yield from reader.call()
                self._end_call()
                if not (yield from reader.goes_on(self._form.wrappers)):
                    break
                cursor.held = cursor.at
        except Mismatch:
            if self._is_open:
                if (yield from reader.rest()):
                    self._end_call()
            else:
                self._give_up(marker or reader.bare)
        cursor.held = None

    def _give_up(self, marker: str) -> None:
        """What was read is no call."""
        cursor = self._cursor
        start = cursor.at if cursor.held is None else cursor.held
        if cursor.at == start:
            cursor.take(min(len(marker), len(cursor.text) - start))
        text = cursor.text[start : cursor.at]
        self._has_said |= not self._close
        self._say(text)

    def _turns(self, turns: MessageTurns) -> Reading[None]:
        """An answer of several messages with headers."""
        cursor = self._cursor
        while (yield from cursor.has(1)):
            header = yield from self._header(turns)
            if header is None:
                self._set_thought("")
                yield from self._scan(*turns.ends, turns.start)
            elif re.search(turns.thought, header):
                self._set_thought(turns.ends[0])
                yield from self._scan(*turns.ends, turns.start)
                self._set_thought("")
            elif turns.call and self._makes_calls and (found := re.search(turns.call, header)):
                yield from self._message_call(found[1], turns)
            else:
                self._after_tag = not self._has_said
                yield from self._scan(*turns.ends, turns.start)
            yield from cursor.accept(turns.start)

    def _header(self, turns: MessageTurns) -> Reading[str | None]:
        """A message's header; None where there is none."""
        cursor = self._cursor
        while (n := cursor.text.find(turns.message, cursor.at) - cursor.at) < 0:
            if cursor.ended or len(cursor.text) - cursor.at > _MAX_HEADER:
                return None
            yield
        if n > _MAX_HEADER:
            return None
        header = cursor.take(n)
        cursor.take(len(turns.message))
        return header

    def _message_call(self, name: str, turns: MessageTurns) -> Reading[None]:
        """A call that is all of a message."""
        reader = self._readers[0]
        self._begin_call(self._new_id(), name)
        try:
            yield from reader.arguments(name)
            self._end_call()
        except Mismatch:
            if (yield from reader.rest()):
                self._end_call()
        yield from self._cursor.first_of((*turns.ends, turns.start))

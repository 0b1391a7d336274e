"""Reads calls of tools in one form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from . import call_arguments, json_stream
from .cursor import Mismatch, Reading, Sink, TextCursor
from .schemas import Schema
from .tool_format import Calls, Json, Slot

_MAX_NAME = 256
_MAX_BRACKETS = 8
_SIGNS = r"\s\"'<>{}()\[\]|,;"  # no name has these
_DIGITS = re.compile(r"\d+")


class CallReader:
    """triggers: the texts that calls may begin with. bare: what an answer begins with that is a call from its first
    character on; "" where calls have markers."""

    def __init__(
        self,
        calls: Calls,
        cursor: TextCursor,
        schemas: Mapping[str, Schema],
        begin: Callable[[str, str], None],
        sink: Sink,
        new_id: Callable[[], str],
    ) -> None:
        """begin: takes the id and name of a call; sink: its arguments. new_id: makes an id."""
        self._calls, self._cursor, self._schemas = calls, cursor, schemas
        self._begin, self._sink, self._new_id = begin, sink, new_id
        self.bare = "{" if calls.keys and not calls.trigger else ""
        if calls.known_only:
            self.triggers = [calls.begin.strip() + name for name in schemas]
        else:
            self.triggers = [calls.trigger] if calls.trigger else []
        self._ends = [*calls.end.split(), *calls.separator.split(), *calls.section_close.split()]
        self._opener = "{" if calls.keys and not calls.begin.strip() else calls.begin.split()[0] if calls.begin else ""
        self._name = ""

    @property
    def is_bare(self) -> bool:
        return bool(self.bare)

    def begin(self, marker: str) -> Reading[None]:
        """Read what comes before the first call."""
        yield from self._cursor.expect(self._calls.section_open)

    def call(self) -> Reading[None]:
        """Read a call. Raises Mismatch."""
        yield from (self._object_call() if self._calls.keys else self._call())

    def goes_on(self, others: Sequence[str]) -> Reading[bool]:
        """After a call: read what ends it and what is between calls; whether another follows. others: what begins
        something else."""
        cursor = self._cursor
        separator = self._calls.separator.strip()
        while True:
            found = yield from cursor.first_of([*self._ends, self._opener, *others])
            if found and found == self._opener:
                return True
            if found not in self._ends or not found:
                return False
            yield from cursor.skip_space()
            cursor.take(len(found))
            if found == separator and not self._opener:
                return True

    def arguments(self, name: str) -> Reading[None]:
        """Read the arguments of a call of this function. Raises Mismatch."""
        schema = self._schemas.get(name, Schema({}))
        yield from call_arguments.read(self._calls.arguments, self._cursor, self._sink, schema, self._ends)
        if not isinstance(self._calls.arguments, Json) and self._ends:
            after = yield from self._cursor.first_of(self._ends)
            if not after and (yield from self._cursor.has(1)):
                raise Mismatch

    def rest(self) -> Reading[bool]:
        """Pass on what is left of arguments that are none, as it is, up to the call's end; whether that has come."""
        cursor = self._cursor
        ends = [end for end in self._ends if len(end) > 2]
        while not cursor.ended:
            places = [at for end in ends if (at := cursor.text.find(end, cursor.at)) >= 0]
            if places:
                self._sink(cursor.take(min(places) - cursor.at))
                yield from self.goes_on(())
                return True
            self._sink(cursor.take(max(0, cursor.certain(*ends))))
            yield
        return False

    # a call of which name and arguments stand apart

    def _call(self) -> Reading[None]:
        parts, cursor, id = self._calls.parts, self._cursor, ""
        skipped = False
        for i, part in enumerate(parts):
            following = parts[i + 1] if i + 1 < len(parts) else ""
            match part:
                case Slot.NAME:
                    self._name = yield from self._word(following)
                    if self._calls.known_only and self._name not in self._schemas:
                        raise Mismatch
                case Slot.INDEX:
                    index = yield from cursor.match(_DIGITS, 9)
                    id = self._calls.id.format(name=self._name, index=index)
                case Slot.ID if not skipped:
                    id = yield from self._word(following)
                case Slot.ARGUMENTS:
                    self._begin(id or self._new_id(), self._name)
                    yield from self.arguments(self._name)
                    return
                case str():
                    skipped = following is Slot.ID and not (yield from self._is_next(part))
                    if not skipped:
                        yield from cursor.expect(part)

    def _is_next(self, literal: str) -> Reading[bool]:
        return bool((yield from self._cursor.first_of(literal.split()[:1])))

    def _word(self, following: str | Slot) -> Reading[str]:
        """A name or an id, up to what follows it."""
        end = following.strip()[:1] if isinstance(following, str) else ""
        yield from self._cursor.skip_space()
        word = yield from self._cursor.match(re.compile(f"[^{_SIGNS}{re.escape(end)}]+"), _MAX_NAME)
        if not word:
            raise Mismatch
        return word

    # a call that is one object

    def _object_call(self) -> Reading[None]:
        keys = self._calls.keys
        assert keys
        yield from self._cursor.expect(keys.before)
        call = _Object()
        yield from self._object(call)
        if call.begun:
            return
        if not call.name or (call.arguments is None and self.bare):
            raise Mismatch
        self._begin(call.id or self._new_id(), call.name)
        self._sink(call.arguments or "{}")

    def _object(self, call: _Object) -> Reading[None]:
        cursor, keys = self._cursor, self._calls.keys
        assert keys
        yield from cursor.expect("{")
        while not (yield from cursor.accept("}")):
            key = yield from json_stream.decoded(cursor)
            yield from cursor.expect(":")
            start = yield from cursor.first_of(('"', "{"))
            if not keys.name and not call.name:
                call.name = key
                yield from self._object_arguments(call)
            elif key in (keys.name, "name") and start == '"':
                yield from cursor.skip_space()
                call.name = yield from json_stream.decoded(cursor)
                self._check(call.name)
            elif key in (keys.arguments, "arguments", "parameters"):
                yield from self._object_arguments(call)
            elif key in (keys.id, "id") and start == '"':
                yield from cursor.skip_space()
                call.id = yield from json_stream.decoded(cursor)
            elif key == "function" and start == "{":
                yield from self._object(call)
            else:
                yield from json_stream.value(cursor, lambda text: None)
            if not (yield from cursor.first_of(("}",))):
                yield from cursor.expect(",")

    def _object_arguments(self, call: _Object) -> Reading[None]:
        """Arguments: passed on at once where name and id are known."""
        if call.begun:
            raise Mismatch
        self._check(call.name)
        if call.name and not (self._calls.keys and self._calls.keys.id_is_last):
            call.begun = True
            self._begin(call.id or self._new_id(), call.name)
            yield from self.arguments(call.name)
            return
        parts: list[str] = []
        yield from call_arguments.read(Json(), self._cursor, parts.append, Schema({}), ())
        call.arguments = "".join(parts)

    def _check(self, name: str) -> None:
        """Without a marker, only a tool's name makes a call. Raises Mismatch."""
        if self.bare and name and name not in self._schemas:
            raise Mismatch


class _Object:
    """What was read of a call that is one object."""

    def __init__(self) -> None:
        self.name = self.id = ""
        self.arguments: str | None = None
        self.begun = False

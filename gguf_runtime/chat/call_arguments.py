"""Arguments of a call in all the ways that models write them, read as they come and passed on as JSON of an object."""

from __future__ import annotations

from collections.abc import Sequence

from . import json_stream
from .bare_arguments import bare_object
from .cursor import Mismatch, Reading, Sink, TextCursor
from .json_stream import quoted
from .nested_arguments import elements
from .python_arguments import keywords
from .schemas import Schema
from .tool_format import Arguments, Bare, Json, Nested, Python, Tagged

_MAX_KEY = 256


def read(form: Arguments, cursor: TextCursor, sink: Sink, schema: Schema, ends: Sequence[str]) -> Reading[None]:
    """Read arguments, and pass them on. ends: what may come after them. Raises Mismatch for what is none."""
    match form:
        case Json():
            yield from _json(cursor, sink)
        case Tagged():
            yield from _tagged(form, cursor, sink, schema, ends)
        case Nested():
            yield from elements(form.prefix, cursor, sink, schema, 0)
        case Bare():
            yield from bare_object(form.quote, cursor, sink, 0)
        case Python():
            yield from keywords(cursor, sink)


def _json(cursor: TextCursor, sink: Sink) -> Reading[None]:
    """An object; as a string, as some models write it, too."""
    start = yield from cursor.first_of(("{", '"', "null"))
    yield from cursor.skip_space()
    if start == "{":
        yield from json_stream.value(cursor, sink)
    elif start == '"':
        sink((yield from json_stream.decoded(cursor)))
    elif start:
        cursor.take(len(start))
        sink("{}")
    else:
        raise Mismatch


# between tags


def _tagged(form: Tagged, cursor: TextCursor, sink: Sink, schema: Schema, ends: Sequence[str]) -> Reading[None]:
    before, marked, after = form.key_close.partition("{}")
    open, close = form.key_open.split()[0], form.value_close.strip()
    separator = "{"
    while (yield from cursor.accept(form.key_open)):
        key = yield from cursor.until(before.split()[0], _MAX_KEY)
        yield from cursor.expect(before)
        value = schema.of_key(key)
        is_text = value.is_text
        if marked:
            mark = yield from cursor.until(after.split()[0], _MAX_KEY)
            yield from cursor.expect(after)
            is_text = mark == form.marks[0]
        yield from _skip(cursor, _space_after(after or before))
        sink(f'{separator}"{quoted(key)}": ')
        separator = ", "
        end = _space_before(form.value_close), close
        if form.cdata and (yield from cursor.accept("<![CDATA[")):
            end = "", f"]]>{close}"
        between = *end, (open, *ends)
        if is_text:
            sink('"')
            yield from _text(cursor, lambda text: sink(quoted(text)), *between)
            sink('"')
        else:
            parts: list[str] = []
            yield from _text(cursor, parts.append, *between)
            sink((Schema({"type": ["object", "number"]}) if marked else value).read("".join(parts)))
        if form.separator.strip():
            yield from cursor.accept(form.separator)
    sink("{}" if separator == "{" else "}")


def _text(cursor: TextCursor, sink: Sink, space: str, close: str, followers: Sequence[str]) -> Reading[None]:
    """A text up to where its end is, and then what may follow that, so that it may have the end in itself."""
    while True:
        n = cursor.text.find(close, cursor.at) - cursor.at
        if n < 0:
            if cursor.ended:
                raise Mismatch
            if n := max(0, cursor.certain(close, space + close)):
                sink(cursor.take(n))
            yield
            continue
        at = yield from cursor.space(n + len(close))
        follower = yield from cursor.first_of(followers, at)
        is_end = follower or not (yield from _has(cursor, at + 1))
        if is_end and cursor.text.endswith(space, cursor.at, cursor.at + n):
            n -= len(space)
            sink(cursor.take(n))
            cursor.take(len(space) + len(close))
            return
        sink(cursor.take(n))
        if is_end:
            cursor.take(len(close))
            return
        sink(cursor.take(len(close)))


def _has(cursor: TextCursor, n: int) -> Reading[bool]:
    return (yield from cursor.has(n))


def _skip(cursor: TextCursor, literal: str) -> Reading[None]:
    """Read exactly this, if it is there."""
    if (yield from cursor.is_next(literal)):
        cursor.take(len(literal))


def _space_after(text: str) -> str:
    return text[len(text.rstrip()) :]


def _space_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]

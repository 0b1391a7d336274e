"""Arguments as JSON with keys as they are, and strings between quotes of their own."""

from __future__ import annotations

import re

from . import json_stream
from .cursor import Mismatch, Reading, Sink, TextCursor
from .json_stream import quoted

_MAX_KEY = 256
_MAX_DEPTH = 60
_PLAIN_KEY = re.compile(r"[^:{}\[\],<>]+")


def bare_object(quote: str, cursor: TextCursor, sink: Sink, depth: int) -> Reading[None]:
    yield from cursor.expect("{")
    separator = "{"
    while not (yield from cursor.accept("}")):
        if separator != "{":
            yield from cursor.expect(",")
        yield from cursor.skip_space()
        is_quoted = yield from cursor.accept(quote)
        key = yield from (cursor.until(quote, _MAX_KEY) if is_quoted else cursor.match(_PLAIN_KEY, _MAX_KEY))
        yield from cursor.expect(quote if is_quoted else "")
        yield from cursor.expect(":")
        sink(f'{separator}"{quoted(key.strip())}": ')
        separator = ", "
        yield from _bare_value(quote, cursor, sink, depth + 1)
    sink("{}" if separator == "{" else "}")


def _bare_value(quote: str, cursor: TextCursor, sink: Sink, depth: int) -> Reading[None]:
    if depth > _MAX_DEPTH:
        raise Mismatch
    start = yield from cursor.first_of((quote, "{", "[", '"'))
    yield from cursor.skip_space()
    if start == quote:
        cursor.take(len(quote))
        sink('"')
        yield from cursor.pass_on(quote, lambda text: sink(quoted(text)))
        sink('"')
    elif start == "{":
        yield from bare_object(quote, cursor, sink, depth)
    elif start == "[":
        cursor.take(1)
        separator = "["
        while not (yield from cursor.accept("]")):
            if separator != "[":
                yield from cursor.expect(",")
            sink(separator)
            separator = ", "
            yield from _bare_value(quote, cursor, sink, depth + 1)
        sink("[]" if separator == "[" else "]")
    else:
        yield from json_stream.value(cursor, sink)

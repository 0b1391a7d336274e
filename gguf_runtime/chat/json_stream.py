"""JSON as it comes: passed on as soon as it is certain, and mended where models often are not strict."""

from __future__ import annotations

import json
import re

from .cursor import Mismatch, Reading, Sink, TextCursor

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR = re.compile(r"[-+.\w]+")
_ESCAPES = '"\\/bfnrt'
_MAX_DEPTH = 200
_MAX_SCALAR = 400  # characters of a number
_NAMES = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}


def quoted(text: str) -> str:
    """A text in JSON, without the quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def value(cursor: TextCursor, sink: Sink, depth: int = 0) -> Reading[None]:
    """Read a value, and pass it on. Raises Mismatch where it is none."""
    yield from cursor.skip_space()
    start = yield from cursor.peek()
    if start == '"':
        sink(start)
        yield from string(cursor, lambda text: sink(text))
        sink('"')
    elif start == "{" or start == "[":
        yield from _container(cursor, sink, depth + 1)
    else:
        text = yield from cursor.match(_SCALAR, _MAX_SCALAR)
        if not (known := _scalar(text)):
            cursor.at -= len(text)
            raise Mismatch
        sink(known)


def string(cursor: TextCursor, sink: Sink) -> Reading[None]:
    """Read a string, and pass it on as JSON without its quotes. Raises Mismatch."""
    yield from cursor.expect('"')
    while True:
        if not (yield from cursor.has(1)):
            raise Mismatch
        if found := _PLAIN.match(cursor.text, cursor.at):
            sink(cursor.take(found.end() - cursor.at))
            continue
        char = cursor.take(1)
        if char == '"':
            return
        if char != "\\":
            sink(quoted(char))  # a line break in a text, mostly
            continue
        escaped = yield from cursor.peek()
        if escaped == "u":
            digits = yield from cursor.peek(5)
            if not re.fullmatch(r"u[0-9a-fA-F]{4}", digits):
                cursor.at -= 1
                raise Mismatch
            sink("\\" + cursor.take(5))
        elif escaped and escaped in _ESCAPES:
            sink("\\" + cursor.take(1))
        elif escaped == "'":
            sink(cursor.take(1))
        else:
            cursor.at -= 1
            raise Mismatch


def decoded(cursor: TextCursor) -> Reading[str]:
    """Read a string, and give what it says. Raises Mismatch."""
    parts: list[str] = []
    yield from string(cursor, parts.append)
    return str(json.loads(f'"{"".join(parts)}"'))


def _container(cursor: TextCursor, sink: Sink, depth: int) -> Reading[None]:
    if depth > _MAX_DEPTH:
        raise Mismatch
    is_object, close = (True, "}") if cursor.take(1) == "{" else (False, "]")
    sink("{" if is_object else "[")
    yield from cursor.skip_space()
    if (yield from cursor.is_next(close)):
        sink(cursor.take(1))
        return
    while True:
        yield from cursor.skip_space()
        if is_object:
            if not (yield from cursor.is_next('"')):
                raise Mismatch
            sink('"')
            yield from string(cursor, sink)
            yield from cursor.expect(":")
            sink('": ')
        yield from value(cursor, sink, depth)
        yield from cursor.skip_space()
        if (yield from cursor.is_next(",")):
            cursor.take(1)
            sink(", ")
            continue
        yield from cursor.expect(close)
        sink(close)
        return


def _scalar(text: str) -> str:
    """A number, or a name, as JSON has it; "" for what is neither."""
    if text in _NAMES:
        return _NAMES[text]
    try:
        if text and not text.lstrip("-").isalpha():
            json.loads(text)
            return text
    except (ValueError, RecursionError):
        pass
    return ""

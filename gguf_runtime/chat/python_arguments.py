"""Arguments as Python's keyword arguments."""

from __future__ import annotations

import re

from . import json_stream
from .cursor import Mismatch, Reading, Sink, TextCursor
from .json_stream import quoted

_MAX_KEY = 256
_MAX_DEPTH = 60
_WORD = re.compile(r"[\w.-]+")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "a": "\a", "v": "\v", "\n": ""}
_AFTER_ARGUMENT, _AFTER_ITEM, _AFTER_KEY = map(re.compile, (r"\)|,\s*[\w.-]+\s*=", r"[,\])}]", r":"))
_MAY_END = re.compile(r"(,\s*[\w.-]{0,256}\s*)?")  # that of an argument, with another one after it
_CODES = {"x": 2, "u": 4, "U": 8}


def keywords(cursor: TextCursor, sink: Sink) -> Reading[None]:
    separator = "{"
    while not (yield from cursor.first_of((")",))):
        if separator != "{":
            yield from cursor.expect(",")
            if (yield from cursor.first_of((")",))):
                break
        yield from cursor.skip_space()
        key = yield from cursor.match(_WORD, _MAX_KEY)
        yield from cursor.expect("=")
        if not key:
            raise Mismatch
        sink(f'{separator}"{quoted(key)}": ')
        separator = ", "
        yield from _python(cursor, sink, 0)
    sink("{}" if separator == "{" else "}")


def _python(cursor: TextCursor, sink: Sink, depth: int) -> Reading[None]:
    """A value as Python writes it, or JSON."""
    if depth > _MAX_DEPTH:
        raise Mismatch
    start = yield from cursor.first_of(("'", '"', "{", "[", "("))
    yield from cursor.skip_space()
    if start in ("'", '"') and start:
        yield from _python_string(cursor, sink, _AFTER_ITEM if depth else _AFTER_ARGUMENT)
    elif start:
        yield from _python_container(cursor, sink, depth)
    else:
        yield from json_stream.value(cursor, sink)


def _python_container(cursor: TextCursor, sink: Sink, depth: int) -> Reading[None]:
    open = cursor.take(1)
    close = {"{": "}", "[": "]", "(": ")"}[open]
    is_object, first = open == "{", True
    sink("{" if is_object else "[")
    while not (yield from cursor.accept(close)):
        if not first:
            yield from cursor.expect(",")
            if (yield from cursor.accept(close)):
                break
            sink(", ")
        first = False
        yield from cursor.skip_space()
        if is_object:
            if not (yield from cursor.first_of(("'", '"'))):
                raise Mismatch
            yield from _python_string(cursor, sink, _AFTER_KEY)
            yield from cursor.expect(":")
            sink(": ")
        yield from _python(cursor, sink, depth + 1)
    sink("}" if is_object else "]")


def _python_string(cursor: TextCursor, sink: Sink, ends: re.Pattern[str]) -> Reading[None]:
    """A string, which ends with a quote before something that may follow it: some templates do not escape others."""
    quote = cursor.take(1)
    sink('"')
    plain = re.compile(rf"[^{quote}\\]+")
    while True:
        if not (yield from cursor.has(1)):
            raise Mismatch
        if found := plain.match(cursor.text, cursor.at):
            sink(quoted(cursor.take(found.end() - cursor.at)))
            continue
        if cursor.take(1) == quote:
            if (yield from _follows(cursor, ends)):
                break
            sink(quoted(quote))
            continue
        escaped = yield from cursor.peek()
        cursor.take(len(escaped))
        if escaped in _CODES:
            digits = yield from cursor.peek(_CODES[escaped])
            if not re.fullmatch(r"[0-9a-fA-F]{2,8}", digits) or int(digits, 16) > 0x10FFFF:
                raise Mismatch
            cursor.take(len(digits))
            sink(_character(int(digits, 16)))
        else:
            known = escaped in "'\"\\/"
            sink(quoted(_ESCAPES.get(escaped, escaped if known else "\\" + escaped)))
    sink('"')


def _follows(cursor: TextCursor, ends: re.Pattern[str]) -> Reading[bool]:
    """Whether what comes next is one of these, or the end."""
    n = yield from cursor.space()
    while True:
        rest = cursor.text[cursor.at + n :]
        if ends.match(rest):
            return True
        if cursor.ended or not _MAY_END.fullmatch(rest):
            return not rest
        yield


def _character(code: int) -> str:
    """A character in JSON; half of a pair stays as it is written."""
    return f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else quoted(chr(code))

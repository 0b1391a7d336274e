"""Arguments of a call in all the ways that models write them, read as they come and passed on as JSON of an object."""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import json_stream
from .cursor import Cursor, Mismatch, Reading
from .json_stream import Sink, quoted
from .schemas import Schema
from .tool_format import Arguments, Bare, Json, Nested, Python, Tagged

_MAX_KEY = 256
_MAX_DEPTH = 60
_MAX_NUMBER = 400
_PLAIN_KEY = re.compile(r"[^:{}\[\],<>]+")
_WORD = re.compile(r"[\w.-]+")
_SCALAR = re.compile(r"[-+.\w]+")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "a": "\a", "v": "\v", "\n": ""}
_AFTER_ARGUMENT, _AFTER_ITEM, _AFTER_KEY = map(re.compile, (r"\)|,\s*[\w.-]+\s*=", r"[,\])}]", r":"))
_MAY_END = re.compile(r"(,\s*[\w.-]{0,256}\s*)?")  # that of an argument, with another one after it
_CODES = {"x": 2, "u": 4, "U": 8}


def read(form: Arguments, cursor: Cursor, sink: Sink, schema: Schema, ends: Sequence[str]) -> Reading[None]:
    """Read arguments, and pass them on. ends: what may come after them. Raises Mismatch for what is none."""
    match form:
        case Json():
            yield from _json(cursor, sink)
        case Tagged():
            yield from _tagged(form, cursor, sink, schema, ends)
        case Nested():
            yield from _elements(form.prefix, cursor, sink, schema, 0)
        case Bare():
            yield from _bare_object(form.quote, cursor, sink, 0)
        case Python():
            yield from _keywords(cursor, sink)


def _json(cursor: Cursor, sink: Sink) -> Reading[None]:
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


def _tagged(form: Tagged, cursor: Cursor, sink: Sink, schema: Schema, ends: Sequence[str]) -> Reading[None]:
    before, marked, after = form.key_close.partition("{}")
    open, close = form.key_open.split()[0], form.value_close.strip()
    separator = "{"
    while (yield from cursor.accept(form.key_open)):
        key = yield from _until(cursor, before.split()[0], _MAX_KEY)
        yield from cursor.expect(before)
        value = schema.of_key(key)
        is_text = value.is_text
        if marked:
            mark = yield from _until(cursor, after.split()[0], _MAX_KEY)
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


def _until(cursor: Cursor, end: str, limit: int) -> Reading[str]:
    """What comes before this. Raises Mismatch where that is too long."""
    while (n := cursor.text.find(end, cursor.at)) < 0:
        if cursor.ended or len(cursor.text) - cursor.at > limit + len(end):
            raise Mismatch
        yield
    if n - cursor.at > limit:
        raise Mismatch
    return cursor.take(n - cursor.at)


def _text(cursor: Cursor, sink: Sink, space: str, close: str, followers: Sequence[str]) -> Reading[None]:
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


def _has(cursor: Cursor, n: int) -> Reading[bool]:
    return (yield from cursor.has(n))


def _skip(cursor: Cursor, literal: str) -> Reading[None]:
    """Read exactly this, if it is there."""
    if (yield from cursor.is_next(literal)):
        cursor.take(len(literal))


def _space_after(text: str) -> str:
    return text[len(text.rstrip()) :]


def _space_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


# elements by their names


def _elements(prefix: str, cursor: Cursor, sink: Sink, schema: Schema, depth: int) -> Reading[None]:
    """The elements of an object."""
    open, separator = prefix + "<", "{"
    while (yield from _opens(cursor, open)):
        yield from cursor.expect(open)
        key = yield from _until(cursor, ">", _MAX_KEY)
        cursor.take(1)
        sink(f'{separator}"{quoted(key)}": ')
        separator = ", "
        yield from _element(prefix, key, cursor, sink, schema.of_key(key), depth + 1)
    sink("{}" if separator == "{" else "}")


def _opens(cursor: Cursor, open: str) -> Reading[bool]:
    return (yield from cursor.first_of((open, open + "/"))) == open


def _element(prefix: str, key: str, cursor: Cursor, sink: Sink, schema: Schema, depth: int) -> Reading[None]:
    """A value, and its element's end."""
    if depth > _MAX_DEPTH:
        raise Mismatch
    open, close = prefix + "<", f"{prefix}</{key}>"
    if schema.is_text or not (yield from _opens(cursor, open)):
        yield from _flat(close, cursor, sink, schema)
        return
    if (yield from cursor.first_of((f"{open}item>",))) and (not schema.kinds or "array" in schema.kinds):
        separator = "["
        while (yield from cursor.accept(f"{open}item>")):
            sink(separator)
            separator = ", "
            yield from _element(prefix, "item", cursor, sink, schema.items, depth + 1)
        sink("]")
    else:
        yield from _elements(prefix, cursor, sink, schema, depth)
    yield from cursor.expect(close)


def _flat(close: str, cursor: Cursor, sink: Sink, schema: Schema) -> Reading[None]:
    parts: list[str] = []
    emit = (lambda text: sink(quoted(text))) if schema.is_text else parts.append
    sink('"' if schema.is_text else "")
    while (n := cursor.text.find(close, cursor.at) - cursor.at) < 0:
        if cursor.ended:
            raise Mismatch
        emit(cursor.take(max(0, cursor.certain(close))))
        yield
    emit(cursor.take(n))
    cursor.take(len(close))
    sink('"' if schema.is_text else schema.read("".join(parts)))


# keys as they are, and strings between quotes of their own


def _bare_object(quote: str, cursor: Cursor, sink: Sink, depth: int) -> Reading[None]:
    yield from cursor.expect("{")
    separator = "{"
    while not (yield from cursor.accept("}")):
        if separator != "{":
            yield from cursor.expect(",")
        yield from cursor.skip_space()
        is_quoted = yield from cursor.accept(quote)
        key = yield from (_until(cursor, quote, _MAX_KEY) if is_quoted else cursor.match(_PLAIN_KEY, _MAX_KEY))
        yield from cursor.expect(quote if is_quoted else "")
        yield from cursor.expect(":")
        sink(f'{separator}"{quoted(key.strip())}": ')
        separator = ", "
        yield from _bare_value(quote, cursor, sink, depth + 1)
    sink("{}" if separator == "{" else "}")


def _bare_value(quote: str, cursor: Cursor, sink: Sink, depth: int) -> Reading[None]:
    if depth > _MAX_DEPTH:
        raise Mismatch
    start = yield from cursor.first_of((quote, "{", "[", '"'))
    yield from cursor.skip_space()
    if start == quote:
        cursor.take(len(quote))
        sink('"')
        yield from _flat_text(quote, cursor, sink)
        sink('"')
    elif start == "{":
        yield from _bare_object(quote, cursor, sink, depth)
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


def _flat_text(close: str, cursor: Cursor, sink: Sink) -> Reading[None]:
    while (n := cursor.text.find(close, cursor.at) - cursor.at) < 0:
        if cursor.ended:
            raise Mismatch
        sink(quoted(cursor.take(max(0, cursor.certain(close)))))
        yield
    sink(quoted(cursor.take(n)))
    cursor.take(len(close))


# keyword arguments of Python


def _keywords(cursor: Cursor, sink: Sink) -> Reading[None]:
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


def _python(cursor: Cursor, sink: Sink, depth: int) -> Reading[None]:
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


def _python_container(cursor: Cursor, sink: Sink, depth: int) -> Reading[None]:
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


def _python_string(cursor: Cursor, sink: Sink, ends: re.Pattern[str]) -> Reading[None]:
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


def _follows(cursor: Cursor, ends: re.Pattern[str]) -> Reading[bool]:
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

"""Arguments as elements by their names: objects in objects, and lists as many items."""

from __future__ import annotations

from .cursor import Mismatch, Reading, Sink, TextCursor
from .json_stream import quoted
from .schemas import Schema

_MAX_KEY = 256
_MAX_DEPTH = 60


def elements(prefix: str, cursor: TextCursor, sink: Sink, schema: Schema, depth: int) -> Reading[None]:
    """The elements of an object."""
    open, separator = prefix + "<", "{"
    while (yield from _opens(cursor, open)):
        yield from cursor.expect(open)
        key = yield from cursor.until(">", _MAX_KEY)
        cursor.take(1)
        sink(f'{separator}"{quoted(key)}": ')
        separator = ", "
        yield from _element(prefix, key, cursor, sink, schema.of_key(key), depth + 1)
    sink("{}" if separator == "{" else "}")


def _opens(cursor: TextCursor, open: str) -> Reading[bool]:
    return (yield from cursor.first_of((open, open + "/"))) == open


def _element(prefix: str, key: str, cursor: TextCursor, sink: Sink, schema: Schema, depth: int) -> Reading[None]:
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
        yield from elements(prefix, cursor, sink, schema, depth)
    yield from cursor.expect(close)


def _flat(close: str, cursor: TextCursor, sink: Sink, schema: Schema) -> Reading[None]:
    """A value that is no element."""
    if schema.is_text:
        sink('"')
        yield from cursor.pass_on(close, lambda text: sink(quoted(text)))
        sink('"')
    else:
        parts: list[str] = []
        yield from cursor.pass_on(close, parts.append)
        sink(schema.read("".join(parts)))

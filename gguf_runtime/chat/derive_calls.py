"""The form of calls, found in what a template wrote of one call and of two."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from os.path import commonprefix
from typing import Any, NamedTuple

from .markers import cut_back, cut_on
from .tool_format import Arguments, Bare, Calls, Json, Keys, Nested, Python, Slot, Tagged

#: What the calls are made of: words that occur nowhere else.
NAMES, IDS = ("qzfirstq", "qzsecondq"), ("idq000001", "idq000002")
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"qzkeyaq": "qzvalueaq", "qzkeybq": 739},
    {"qzkeycq": "qzvaluecq", "qzkeydq": 857},
)

_DECODER = json.JSONDecoder()


class NotFound(Exception):
    """This is not written in a way that is understood."""


class _Call(NamedTuple):
    """A call's place in a text, from its beginning to its arguments' end, or to that of the object that it is."""

    start: int
    end: int
    parts: tuple[str | Slot, ...]
    arguments: Arguments
    keys: Keys | None = None


def shows(text: str, n: int) -> bool:
    """Whether n calls are in a text, once each."""
    words = [word for i in range(n) for word in (NAMES[i], *ARGUMENTS[i])]
    return all(word in text for word in words) and not any(f'\\"{word}' in text for word in words)


def find_calls(one: str, two: str, before: str) -> tuple[Calls, int]:
    """The form, and how many characters of `before` belong to it. one, two: what calls are written as; two is empty
    where there can be only one. before: what comes before one. Raises NotFound."""
    call = _find(one, 0, 0)
    head, tail = one[: call.start], one[call.end :]
    if not two:
        return _put_together(call, head, tail, "", "", "", several=False), 0
    first, back = _find(two, 0, 0), 0
    second = _find(two, 1, first.end)
    between, rest = two[first.end : second.start], two[second.end :]
    if not head.strip() and between.strip():  # the prompt has it
        back = len(commonprefix([before[::-1], between[::-1]]))
        head = before[len(before) - back :]
    between = _without_id(between, 1)
    begin = _common_end(_without_id(head, 0), between)
    between = between[: len(between) - len(begin)]
    end = commonprefix([between, tail])
    end = end[: cut_back(between, cut_back(tail, len(end)))]
    section_open, section_close = head[: len(head) - len(_with_id(begin, 0))], rest[len(end) :]
    call = _counted(call, second)
    return _put_together(call, begin, end, section_open, section_close, between[len(end) :], several=True), back


def _common_end(a: str, b: str) -> str:
    n = len(commonprefix([a[::-1], b[::-1]]))
    return a[max(cut_on(a, len(a) - n), len(a) - len(b) + cut_on(b, len(b) - n)) :]


def _without_id(text: str, i: int) -> str:
    return text.replace(IDS[i], "\0")


def _with_id(text: str, i: int) -> str:
    return text.replace("\0", IDS[i])


def _put_together(
    call: _Call, begin: str, end: str, section_open: str, section_close: str, separator: str, several: bool
) -> Calls:
    begin = _without_id(begin, 0)
    before = [part for text in re.split("(\0)", begin) if (part := Slot.ID if text == "\0" else text)]
    parts = _joined([*before, *call.parts, end])
    keys = call.keys and replace(call.keys, before=begin, after=end)
    id = ""
    if Slot.INDEX in parts:
        at = parts.index(Slot.INDEX)
        prefix = re.search(r"[\w.]*$", begin)
        if parts[at - 2] is Slot.NAME and parts[at - 1] == ":":
            id = f"{prefix[0] if prefix else ''}{{name}}:{{index}}"
    return Calls(parts, call.arguments, section_open, section_close, separator, several, keys, id)


def _joined(parts: list[str | Slot]) -> tuple[str | Slot, ...]:
    """The parts, with texts that follow each other in one."""
    joined: list[str | Slot] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part:
            joined.append(part)
    return tuple(joined)


def _counted(call: _Call, second: _Call) -> _Call:
    """The call with a slot where the template counts."""
    parts: list[str | Slot] = []
    for a, b in zip(call.parts, second.parts, strict=True):
        numbers = [re.split(r"(\d+)", text) if isinstance(text, str) else [] for text in (a, b)]
        if a == b or len(numbers[0]) != 3 or len(numbers[1]) != 3:
            parts.append(a)
        else:
            parts += [numbers[0][0], Slot.INDEX, numbers[0][2]]
    return call._replace(parts=_joined(parts))


def _find(text: str, i: int, start: int) -> _Call:
    """Call number i. Raises NotFound, ValueError."""
    name = text.index(NAMES[i], start)
    return _find_object(text, i, start, name) or _find_apart(text, i, name)


def _find_object(text: str, i: int, start: int, name: int) -> _Call | None:
    """A call that is one object of JSON."""
    for at in (found.start() for found in re.finditer(r"\{", text[:name]) if found.start() >= start):
        value, end = _object_at(text, at)
        inner = value["function"] if isinstance(value.get("function"), dict) else value
        if NAMES[i] not in (*inner, *(item for item in inner.values() if isinstance(item, str))):
            continue
        names = [key for key, item in inner.items() if item == NAMES[i]]
        arguments = [key for key, item in inner.items() if item == ARGUMENTS[i]]
        ids = [key for key, item in inner.items() if isinstance(item, str) and (item == IDS[i] or key.endswith("id"))]
        if not arguments:
            return None
        id = ids[0] if ids else ""
        is_last = bool(ids) and list(inner).index(id) > list(inner).index(arguments[0])
        keys = Keys(names[0] if names else "", "" if not names else arguments[0], id, is_last)
        raw = text[at:end]
        if ids:
            raw = re.sub(rf'("{re.escape(id)}":\s*")[^"]*"', "\\1\0" + '"', raw)
        inside = next(
            n for n in range(raw.index("{") + 1, len(raw)) if raw[n] == "{" and _object_at(raw, n)[0] == ARGUMENTS[i]
        )
        _, inside_end = _object_at(raw, inside)
        marked = raw[:inside] + "\1" + raw[inside_end:]
        slots = {"\0": Slot.ID, "\1": Slot.ARGUMENTS, NAMES[i]: Slot.NAME}
        parts = [slots.get(part, part) for part in re.split(f"(\0|\1|{NAMES[i]})", marked)]
        return _Call(at, end, _joined(parts), Json(), keys)
    return None


def _object_at(text: str, at: int) -> tuple[dict[str, Any], int]:
    """An object that is JSON, and its end; an empty one where there is none."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except ValueError:
        return {}, at
    return (value, end) if isinstance(value, dict) else ({}, at)


def _find_apart(text: str, i: int, name: int) -> _Call:
    """A call of which name and arguments stand apart."""
    after = name + len(NAMES[i])
    start, end, form, closing = _find_arguments(text, i, after)
    between = _without_id(text[after:start], i)
    ids: list[str | Slot] = [Slot.ID if part == "\0" else part for part in re.split("(\0)", between)]
    parts = _joined([Slot.NAME, *ids, Slot.ARGUMENTS, closing])
    return _Call(name, end, tuple(part for part in parts if part != ""), form)


def _find_arguments(text: str, i: int, at: int) -> tuple[int, int, Arguments, str]:
    """Where arguments begin and end, their form, and a text at the end that is no part of them."""
    for n in (brace.start() for brace in re.finditer(r"\{", text[at:])):
        found, end = _object_at(text, at + n)
        if found == ARGUMENTS[i]:
            return at + n, end, Json(), ""
    (key, value), (key2, value2) = ((key, str(value)) for key, value in ARGUMENTS[i].items())
    places = []
    for word in (key, value, key2, value2):
        places.append(at := text.index(word, at))
        at += len(word)
    k, v, k2, v2 = places
    k_end, v_end, k2_end, v2_end = k + len(key), v + len(value), k2 + len(key2), v2 + len(value2)
    name_end = text.rindex(NAMES[i], 0, k) + len(NAMES[i])
    if text[name_end] == "(" and text[k_end] == "=":
        return k, v2_end, Python(), ""
    if text[k - 1] == "{" and text[k_end] == ":":
        return k - 1, text.index("}", v2_end) + 1, Bare(text[k_end + 1 : v]), ""
    if text.startswith(f"</{key}>", close := text.find(f"</{key}>", v_end)) and close >= 0:
        prefix = text[v_end:close]
        return (
            text.rindex(f"{prefix}<{key}>", 0, v),
            text.index(f"</{key2}>", v2_end) + len(key2) + 3,
            Nested(prefix),
            "",
        )
    return _find_tagged(text[name_end:], name_end, (k, k_end, v, v_end, k2, k2_end, v2, v2_end))


def _find_tagged(text: str, offset: int, places: tuple[int, ...]) -> tuple[int, int, Arguments, str]:
    k, k_end, v, v_end, k2, k2_end, v2, v2_end = (place - offset for place in places)
    between, tail = text[v_end:k2], text[v2_end:]
    key_open = _common_end(text[:k], between)
    between = between[: len(between) - len(key_open)]
    value_close = commonprefix([between, tail])
    value_close = value_close[: cut_back(between, cut_back(tail, len(value_close)))]
    if not key_open.strip() or not value_close.strip():
        raise NotFound
    a, b = text[k_end:v], text[k2_end:v2]
    marks, key_close = ("", ""), a
    if a != b:
        n = commonprefix([a, b]).rindex('"') + 1
        marks = (a[n : a.index('"', n)], b[n : b.index('"', n)])
        key_close = f"{a[:n]}{{}}{a[n + len(marks[0]) :]}"
    form = Tagged(key_open, key_close, value_close, between[len(value_close) :], marks)
    return offset + k - len(key_open), offset + v2_end + len(value_close), form, ""

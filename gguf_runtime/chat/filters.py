"""The filters of chat templates, none of which makes more than the meter allows.

They are Jinja's, but for those that no template needs and whose work cannot be foreseen.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import make_attrgetter
from markupsafe import soft_str

from .meter import LimitExceeded, current

_PLAIN = (
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby",
    "int", "items", "last", "length", "list", "lower", "max", "min", "reverse", "safe", "sort", "string", "title",
    "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
)  # fmt: skip
_LAZY = ("map", "reject", "rejectattr", "select", "selectattr")
_WIDTHS = ("batch", "indent", "round", "slice")  # a number says how much they add to an item or a line
_MAX_WIDTH = 1000
PERCENT_WIDTH = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
BRACE_WIDTH = re.compile(r"\{[^{}]*:[^{}]*(?:\d{4}|\{)")

Filter = Callable[..., Any]


def _measured(filter: Filter) -> Filter:
    """The filter, with its result measured."""
    return functools.wraps(filter)(lambda *args, **kwargs: current.get().made(filter(*args, **kwargs)))


def _with_ticks(filter: Filter) -> Filter:
    """The filter, with a look at the clock for each item that it takes."""

    @functools.wraps(filter)
    def ticking(context: Any, items: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        return current.get().nested(filter(context, _each(items), *args, **kwargs), items)

    return ticking


def _narrow(filter: Filter) -> Filter:
    """The filter, for numbers of a sensible size."""

    @functools.wraps(filter)
    def narrow(*args: Any, **kwargs: Any) -> Any:
        settings = [*args[1:], *kwargs.values()]
        numbers = [abs(arg) for arg in settings if isinstance(arg, int)]
        width = max(numbers + [len(arg) for arg in settings if isinstance(arg, str)], default=0)
        if width > _MAX_WIDTH:
            raise LimitExceeded(f"it asks for a width of {width}")
        for text in (arg for arg in args if isinstance(arg, str)):
            current.get().reserve(len(text) + (text.count("\n") + 1) * width)
        return filter(*args, **kwargs)

    return narrow


def _each(items: Iterable[Any]) -> Iterable[Any]:
    return current.get().each(items)


def _made(value: Any) -> Any:
    return current.get().made(value)


def _concat(values: Iterable[Any]) -> str:
    """What `a ~ b` is."""
    return current.get().made("".join(limited(map(str, values))))


def limited(pieces: Iterable[str], separator: int = 0) -> list[str]:
    """Pieces that are to be joined by a separator of this length, if that is not too much."""
    meter, size, kept = current.get(), 0, []
    for piece in meter.each(pieces):
        size += len(piece) + separator
        meter.reserve(size)
        kept.append(piece)
    return kept


@functools.wraps(JINJA_FILTERS["join"])
def _join(context: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(context.environment, attribute), value)
    return str(d).join(limited(map(str, value), len(str(d))))


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    check_replace(text, old, new)
    return text.replace(old, new, -1 if count is None else count)


def check_replace(text: str, old: str, new: str, *_: Any) -> None:
    current.get().reserve(len(text) + text.count(old) * len(new))


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    check_format(value, args or kwargs, PERCENT_WIDTH, "%")
    return soft_str(value) % (kwargs or args)


@functools.wraps(JINJA_FILTERS["sum"])
def _sum(environment: Any, items: Iterable[Any], attribute: Any = None, start: float = 0) -> Any:
    """Of numbers; a sum of lists would copy the first ones again and again."""
    read = make_attrgetter(environment, attribute)
    return sum((read(item) + 0 for item in _each(items)), start + 0)


def check_format(format: str, values: Any, too_wide: re.Pattern[str], mark: str) -> None:
    meter = current.get()
    if too_wide.search(format):
        raise LimitExceeded("it asks for a field that is too wide")
    meter.reserve(len(format) + str(format).count(mark) * (_MAX_WIDTH + meter.size(values)))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter would escape HTML."""
    width = len(indent) if isinstance(indent, str) else indent or 0
    current.get().reserve(0 if width <= 16 else current.get().size(value) * width)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


#: What the instrumented syntax calls, by names that no template can spell.
EACH, MADE, CONCAT = "<each>", "<made>", "<concat>"

FILTERS: dict[str, Filter] = {
    **{name: _measured(JINJA_FILTERS[name]) for name in _PLAIN},
    **{name: _measured(_with_ticks(JINJA_FILTERS[name])) for name in _LAZY},
    **{name: _measured(_narrow(JINJA_FILTERS[name])) for name in _WIDTHS},
    "format": _measured(_format),
    "join": _measured(_join),
    "replace": _measured(_replace),
    "sum": _measured(_sum),
    "tojson": _measured(_to_json),
    EACH: _each,
    MADE: _made,
    CONCAT: _concat,
}

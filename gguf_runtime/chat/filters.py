"""The filters of chat templates: Jinja's, which may not make more than the budget allows."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType
from typing import Any

from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import make_attrgetter

from ..tokenizer import BREAK
from .limits import LimitExceeded, current, fixed

Filter = Callable[..., Any]

_MAX_WIDTH = 1000
_WIDENING = {
    "batch", "center", "indent", "ljust", "rjust", "round", "slice", "tojson", "wordwrap", "zfill"
}  # fmt: skip
_SLOW = {"pprint", "striptags", "urlize", "wordwrap", "xmlattr"}
_SLOWNESS = 50  # as many characters of others take the time of one
_WIDE_FIELD = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)|\{[^{}]*:[^{}]*(?:\d{4}|\{)")


def foresee(name: str, value: Any, settings: list[Any]) -> None:
    """Refuse a filter or a method of a text, by its name, where it would multiply sizes. Raises LimitExceeded."""
    budget = current.get()
    if name in _WIDENING:
        width = max((len(s) if isinstance(s, str) else abs(s) for s in settings if isinstance(s, str | int)), default=0)
        if width > _MAX_WIDTH:
            raise LimitExceeded(f"it asks for a width of {width}")
        lines = value.count("\n") + 1 if isinstance(value, str) else 0
        budget.reserve(budget.size(value) * (width if name == "tojson" and width > 16 else 1) + lines * width)
    if name in _SLOW:
        budget.reserve(_SLOWNESS * budget.size(value))
    elif name == "replace" and len(settings) > 1:
        text, old, new = str(value), str(settings[0]), str(settings[1])
        budget.reserve(len(text) + text.count(old) * len(new))
    elif name in ("format", "format_map"):
        if _WIDE_FIELD.search(value):
            raise LimitExceeded("it asks for a field that is too wide")
        budget.reserve(len(value) + (value.count("{") + value.count("%")) * (_MAX_WIDTH + budget.size(settings)))


def pieces(texts: Iterable[Any], separator: int = 0) -> list[str]:
    """Texts that are to be joined by a separator of this length, if that is not too much."""
    budget, size, kept = current.get(), 0, []
    for text in map(str, budget.each(texts)):
        size += len(text) + separator
        budget.reserve(size)
        kept.append(text)
    return kept


def guarded(name: str, filter: Filter) -> Filter:
    """The filter, asked before what it is going to make, and measured after."""
    n_passed = hasattr(filter, "jinja_pass_arg")

    @functools.wraps(filter)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tuple(map(fixed, args)), {key: fixed(value) for key, value in kwargs.items()}
        foresee(name, args[n_passed], [*args[n_passed + 1 :], *kwargs.values()])
        result = filter(*args, **kwargs)
        if isinstance(result, GeneratorType):  # in one go: deep chains of generators crash Python
            return iter(current.get().made(tuple(current.get().each(result))))
        return current.get().made(result)

    return guarded


@functools.wraps(JINJA_FILTERS["join"])
def _join(context: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(context.environment, attribute), value)
    return str(d).join(pieces(value, len(str(d))))


@functools.wraps(JINJA_FILTERS["sum"])
def _sum(environment: Any, items: Iterable[Any], attribute: Any = None, start: float = 0) -> Any:
    """Of numbers; a sum of lists would copy the first ones again and again."""
    read = make_attrgetter(environment, attribute)
    return sum((read(item) + 0 for item in current.get().each(items)), start + 0)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter would escape HTML. What `map` and its like make is written as a list."""
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_listed
    )
    return text.replace(json.dumps(BREAK)[1:-1], BREAK) if ensure_ascii else text


def _listed(value: object) -> list[Any]:
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


FILTERS: dict[str, Filter] = {
    name: guarded(name, filter)
    for name, filter in {
        **JINJA_FILTERS, "join": _join, "sum": _sum, "tojson": _to_json
    }.items()
}  # fmt: skip

"""What one rendering of a chat template may use: time, and room for the values that it makes.

No operation of a template can be stopped while it runs, in a thread and on every system, so none may take long: every
value has a limited size, operations that multiply sizes are refused before they run (sandbox.py), and between them
the clock is looked at.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeVar

from jinja2 import TemplateError

T = TypeVar("T")

_SECONDS = 5.0
_ROOM = 1 << 21  # characters of one value, and four times as many as the conversation has
_TOTAL = 16  # as many times the room may be used in all
_MAX_BITS = 1 << 15  # of a whole number


class LimitExceeded(TemplateError):
    """The template takes too long or makes too much."""


class Meter:
    """Counts what a rendering uses. Its methods raise LimitExceeded."""

    def __init__(self, variables: object = ()) -> None:
        self._deadline = monotonic() + _SECONDS
        self._sizes: dict[int, tuple[int, object]] = {}  # by id; held here, an object keeps its id
        self._room = _ROOM + 4 * self.size(variables)
        self._left = _TOTAL * self._room

    def tick(self) -> None:
        """Look at the clock."""
        if monotonic() > self._deadline:
            raise LimitExceeded(f"it takes more than {_SECONDS:.0f} seconds")

    def each(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, with a look at the clock before each."""
        for item in items:
            self.tick()
            yield item

    def reserve(self, size: int) -> None:
        """Ask whether a value may become this large."""
        if size > self._room:
            raise LimitExceeded(f"it makes a text or list of more than {self._room} characters")

    def reserve_bits(self, n: int) -> None:
        """Ask whether a whole number may become this large."""
        if n > _MAX_BITS:
            raise LimitExceeded("it makes a number that is too large")

    def made(self, value: T) -> T:
        """The value, which the template has just made, if it is not too large."""
        self.tick()
        self.reserve(self.size(value))
        if isinstance(value, (str, list, tuple, dict)):
            self._left -= len(value)
            if self._left < 0:
                raise LimitExceeded("it makes more text than any conversation needs")
        return value

    def size(self, value: object) -> int:
        """How long the value would be as text, about."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, (KeysView, ValuesView, ItemsView)):
            value = getattr(value, "mapping", ())
        if isinstance(value, (list, tuple, Mapping)):
            if id(value) not in self._sizes:
                items: Iterable[object] = (*value, *value.values()) if isinstance(value, Mapping) else value
                self._sizes[id(value)] = 2 + sum(2 + self.size(item) for item in items), value
            return self._sizes[id(value)][0]
        if isinstance(value, int):
            self.reserve_bits(value.bit_length())
        return 8


#: The meter of the rendering that goes on in this thread.
current: ContextVar[Meter] = ContextVar("meter")

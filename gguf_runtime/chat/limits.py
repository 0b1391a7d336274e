"""What one rendering of a chat template may use: time, and room for the values that it makes.

No operation of a template can be stopped while it runs, in a thread and on every system, so none may take long: every
value has a limited size, and between operations (sandbox.py) the clock is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeVar

from jinja2 import TemplateError

T = TypeVar("T")

_SECONDS = 10.0
_ROOM = 1 << 21  # characters of one value, and four times as many as the conversation has
_TOTAL = 128  # as many times the room may be used in all
_LEAST = 200  # what a value takes that is almost nothing
_MAX_DIGITS = 10_000  # of a whole number


class LimitExceeded(TemplateError):
    """The template takes too long or makes too much."""


class Budget:
    """Counts what a rendering uses. Its methods raise LimitExceeded.

    strict: a name or id that a message does not have is not to be printed.
    """

    def __init__(self, variables: object = (), strict: bool = False, outer: Budget | None = None) -> None:
        """outer: that of the rendering which this one is part of, and in whose time it has to be done."""
        self.strict = strict
        self._deadline: float = outer._deadline if outer else monotonic() + _SECONDS
        self._known: dict[int, tuple[int, object]] = {}  # sizes by id; held here, an object keeps its id
        self._room = _ROOM + 4 * self.size(variables)
        self._left = _TOTAL * self._room

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, with a look at the clock before each."""
        for item in items:
            self._tick()
            yield item

    def reserve(self, size: int) -> None:
        """Ask whether a value may become this large."""
        if size > self._room:
            raise LimitExceeded(f"it makes a text or list of more than {self._room} characters")

    def made(self, value: T) -> T:
        """The value, which the template has just made, if it is not too large."""
        self._tick()
        self.reserve(self.size(value))
        self._left -= _LEAST + (len(value) if isinstance(value, (str, list, tuple, dict)) else 0)
        if self._left < 0:
            raise LimitExceeded("it makes more text than any conversation needs")
        return value

    def iterator(self, items: Iterable[T]) -> Iterator[T]:
        """What a generator gives, made at once: Python crashes on deep chains of generators."""
        made = self.made(tuple(self.each(items)))
        iterator = iter(made)
        self._known[id(iterator)] = self.size(made), iterator
        return iterator

    def size(self, value: object) -> int:
        """How long the value would be as text, about. Each level of nesting adds a 16th, so that nothing nests deep."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, int):
            if (digits := value.bit_length() // 3 + 2) > _MAX_DIGITS:
                raise LimitExceeded("it makes a number that is too large")
            return digits
        if isinstance(value, Growing):
            return value.size
        if id(value) not in self._known:
            if not isinstance(value, (list, tuple, Mapping)):
                return len(repr(value))
            items = (*value, *value.values()) if isinstance(value, Mapping) else value
            self._known[id(value)] = self.extent(items), value
        return self._known[id(value)][0]

    def extent(self, items: Iterable[object]) -> int:
        """The size of what holds these."""
        size = 0
        for item in items:
            size += self.size(item) + 2
            if isinstance(item, Growing):
                item.held = True
        return 2 + size * 17 // 16

    def _tick(self) -> None:
        if monotonic() > self._deadline:
            raise LimitExceeded(f"it takes more than {_SECONDS:.0f} seconds")


class Growing(list[Any]):
    """A list that the template has written. It may append to it until another value, whose size is known, holds it."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self.size, self.held = current.get().extent(self), False

    def append(self, item: Any) -> None:
        budget = current.get()
        self.size += budget.extent([item])
        budget.reserve(self.size)
        if self.held:
            raise LimitExceeded("it appends to a list that another value holds")
        super().append(item)


#: The budget of the rendering that goes on in this thread.
current: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def limited(variables: object = (), strict: bool = False) -> Iterator[None]:
    """With a budget for what is compiled or rendered."""
    token = current.set(Budget(variables, strict, current.get(None)))
    try:
        yield
    finally:
        current.reset(token)

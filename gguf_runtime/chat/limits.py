"""What one rendering of a chat template may use: time, and room for the values that it makes.

No operation of a template can be stopped while it runs, in a thread and on every system, so none may take long: every
value has a limited size, and between operations (sandbox.py) the clock is looked at.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeVar

from jinja2 import TemplateError

T = TypeVar("T")

_SECONDS = 10.0
_ROOM = 1 << 21  # characters of one value, and four times as many as the conversation has
_TOTAL = 128  # as many times the room may be used in all
_MAX_DEPTH = 300  # Python crashes where it has to go very deep
_MAX_BITS = 1 << 15  # of a whole number


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
        self._known: dict[int, tuple[int, int, object]] = {}  # by id; held here, an object keeps its id
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
        return self._measure(value)[0]

    def _measure(self, value: object) -> tuple[int, int]:
        """Size, and how deep containers are nested."""
        if isinstance(value, str):
            return len(value), 0
        if isinstance(value, Growing):
            return value.size, value.depth
        if id(value) in self._known:
            return self._known[id(value)][:2]
        if isinstance(value, (KeysView, ValuesView, ItemsView)):
            return self._measure(getattr(value, "mapping", ()))
        if isinstance(value, (list, tuple, Mapping)):
            items: Iterable[object] = (*value, *value.values()) if isinstance(value, Mapping) else value
            self._known[id(value)] = size, depth, _ = (*self.extent(items), value)
            return size, depth
        if isinstance(value, int):
            self.reserve_bits(value.bit_length())
        return 8, 0

    def extent(self, items: Iterable[object]) -> tuple[int, int]:
        """Size and depth of what holds these."""
        size, depth = 2, 0
        for item in items:
            inner = self._measure(item)
            size, depth = size + 2 + inner[0], max(depth, 1 + inner[1])
        if depth > _MAX_DEPTH:
            raise LimitExceeded("it nests values too deeply")
        return size, depth


class Growing(list[Any]):
    """A list that a template has written, which it may append to.

    It is copied into what is to hold it, so that nothing becomes larger than it was measured.
    """

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(map(fixed, items))
        self.size, self.depth = current.get().extent(self)

    def append(self, item: Any) -> None:
        budget = current.get()
        size, depth = budget.extent([item])
        self.size, self.depth = self.size + size, max(self.depth, depth)
        budget.reserve(self.size)
        super().append(fixed(item))


def fixed(value: Any) -> Any:
    """The value as another may hold it."""
    return list(value) if isinstance(value, Growing) else value


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

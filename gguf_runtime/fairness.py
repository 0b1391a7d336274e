"""Whose turn it is, where more is asked for than can be done at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from operator import attrgetter
from typing import Protocol, TypeVar


class Asked(Protocol):
    """priority: lower goes first. client: on whose behalf."""

    @property
    def priority(self) -> int: ...

    @property
    def client(self) -> Hashable: ...


T = TypeVar("T", bound=Asked)


def rounds(asked: Iterable[T]) -> list[list[T]]:
    """What is asked for, in the order in which it came, by rounds: those of the lowest priority first, and in each
    round one of each client, so that one who asks for much does not keep out one who asks for little."""
    found: dict[tuple[int, int], list[T]] = {}
    n_before: dict[Hashable, int] = {}
    for one in sorted(asked, key=attrgetter("priority")):
        n = n_before.get(one.client, 0)
        n_before[one.client] = n + 1
        found.setdefault((one.priority, n), []).append(one)
    return [found[key] for key in sorted(found)]


def in_turn(asked: Iterable[T]) -> list[T]:
    """The same in one list, the first to have its turn first."""
    return [one for together in rounds(asked) for one in together]

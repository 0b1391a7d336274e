"""Whose turn it is, where more is asked for than can be done at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
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
    found: dict[tuple[int, int], list[T]] = defaultdict(list)
    n_before = Counter[Hashable]()
    for one in sorted(asked, key=lambda one: one.priority):
        found[one.priority, n_before[one.client]].append(one)
        n_before[one.client] += 1
    return [found[key] for key in sorted(found)]


def in_turn(asked: Iterable[T]) -> list[T]:
    """The same in one list, the first to have its turn first."""
    return [one for together in rounds(asked) for one in together]

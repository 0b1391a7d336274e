"""Whose turn it is: how many answers an engine makes at once, and in which order others follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from .vocabulary import Failure


class Turn(Struct, eq=False):
    """A place among those that wait, and then among those whose turn it is. start: called when it is."""

    client: str
    priority: int
    start: Callable[[], None]
    number: int = 0


class Turns:
    """Lets so many at once have their turn. Those of the lowest priority go first; among these, the client that has the
    fewest turns now, so that one with many requests does not keep out one with a single one; then who came first."""

    def __init__(self, n_parallel: int, n_waiting: int) -> None:
        """n_waiting: how many may wait."""
        self.n_parallel, self.n_waiting = n_parallel, n_waiting
        self.waiting: list[Turn] = []
        self.running: set[Turn] = set()
        self._n_asked = 0

    def check(self, n: int) -> None:
        """Raises Failure unless there is room for n more."""
        if len(self.waiting) + len(self.running) + n > self.n_parallel + self.n_waiting:
            raise Failure("busy", f"too many requests: {len(self.waiting)} are waiting", retry_after=1)

    def ask(self, turn: Turn) -> None:
        """Wait for a turn, or have it at once."""
        self._n_asked += 1
        turn.number = self._n_asked
        self.waiting.append(turn)
        self._go_on()

    def end(self, turn: Turn) -> None:
        """The turn is over, or given up before it came."""
        if turn in self.running:
            self.running.remove(turn)
            self._go_on()
        elif turn in self.waiting:
            self.waiting.remove(turn)

    def _go_on(self) -> None:
        while self.waiting and len(self.running) < self.n_parallel:
            n_running = Counter(turn.client for turn in self.running)
            first = min(self.waiting, key=lambda turn: (turn.priority, n_running[turn.client], turn.number))
            self.waiting.remove(first)
            self.running.add(first)
            first.start()

"""How many answers an engine makes at once, and in which order others follow."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ..fairness import in_turn
from .vocabulary import Failure


class Turn(Struct, eq=False):
    """A place among those that wait, and then among those whose turn it is. start: called when it is."""

    client: str
    priority: int
    start: Callable[[], None]
    number: int = 0


class TurnQueue:
    """Lets so many at once have their turn, in the order of fairness.py. One that comes before others whose turn it is
    already has its turn at once: the engine puts the last of these off meanwhile, by the same order."""

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
        asked = sorted([*self.running, *self.waiting], key=lambda turn: turn.number)
        due = [turn for turn in in_turn(asked)[: self.n_parallel] if turn not in self.running]
        self.running.update(due)
        self.waiting = [turn for turn in self.waiting if turn not in self.running]
        for turn in due:
            turn.start()

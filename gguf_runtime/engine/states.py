"""The state of one sequence, in layers that keep one: which records hold it, and after how many tokens."""

from __future__ import annotations

from collections.abc import Iterable

from ..backends.states import NOTHING, StateMark
from .cache import PageAllocator

_EMPTY = StateMark(0, NOTHING)


class States:
    """Records that a sequence holds.

    marks: in order. Those up to what is computed hold the state there; a step leaves it in those after. What a step
    began from is held until the next one, so that the sequence can go back there.
    """

    def __init__(self, records: PageAllocator) -> None:
        self.records = records
        self.marks: list[StateMark] = [_EMPTY]

    def n_missing(self, n_computed: int) -> int:
        """How many records must be taken for the next step."""
        others = (mark.record for mark in self.marks if mark.n_tokens != n_computed)
        return int(not any(self.records.is_sole(record) for record in others if record != NOTHING))

    def reserve(self, n_computed: int, end: int) -> None:
        """Have the next step begin at n_computed, and leave the state after `end` tokens. Raises NoPages."""
        self.records.require(self.n_missing(n_computed))
        self._keep([next(mark for mark in self.marks if mark.n_tokens == n_computed)])
        self.marks.append(StateMark(end, self.records.take()))

    def leave(self, wanted: Iterable[int]) -> None:
        """Have the next step leave the state for others after so many tokens too, as far as there are records."""
        begin, end = self.marks
        marks = [begin]
        for n_tokens in wanted:
            if n_tokens == end.n_tokens:
                end = end._replace(checkpoint=True)
            elif self.records.n_available:
                marks.append(StateMark(n_tokens, self.records.take(), checkpoint=True))
        self.marks = [*marks, end]

    def begin(self, mark: StateMark) -> None:
        """Go on from a record that is kept."""
        self.records.hold(mark.record)
        held, self.marks = self.held, [mark]
        self._drop(held)

    def last(self, n_computed: int) -> StateMark:
        """The last state that is held, n_computed tokens having been computed."""
        return max((mark for mark in self.marks if mark.n_tokens <= n_computed), default=_EMPTY)

    def rewind(self, mark: StateMark) -> None:
        """Go back to a state: one of these, or one that is kept."""
        if mark in self.marks or not mark.n_tokens:
            self._keep([own for own in self.marks if 0 < own.n_tokens <= mark.n_tokens] or [_EMPTY])
        else:
            self.begin(mark)

    def pass_on(self) -> None:
        """Hold no longer what was left for others on the way."""
        self._keep([mark for mark in self.marks if not mark.checkpoint or mark in (self.marks[0], self.marks[-1])])

    @property
    def held(self) -> list[int]:
        """The records, the last one first."""
        return [mark.record for mark in self.marks[::-1] if mark.record != NOTHING]

    def _keep(self, marks: list[StateMark]) -> None:
        held, self.marks = self.held, marks
        self._drop(record for record in held if record not in self.held)

    def _drop(self, records: Iterable[int]) -> None:
        for record in records:
            self.records.drop(record)

"""Speculation: guess how the text goes on, compute all guesses in one step, keep those that prove right.

A guess only proposes tokens. Whatever stands at a place is drawn there from the model's own logits by the sampler,
as without guesses; a guess that equals what was drawn has saved a step, and the first that does not ends the row.
So the text has exactly the distribution that the logits give, for any sampler. These are, bit for bit, those of steps
of one token as long as steps are short (Backend.n_alike); in longer ones, sums are added up in another order, and the
text may take another turn where two tokens are about as likely. `most` keeps to short ones.

When to guess, and how much, follows from the text alone and not from clocks, so that a seed gives the same text each
time; a clock only ends guessing where it turns out to cost time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .text import Text

_SIZES = (1, 2, 3, 5, 7, 15, 23, 31)  # tokens to guess: with the one before them, steps of 2 to 32
_LOSS_RATE = 0.015  # share of all steps that may be lost, beside the guesser's budget


class Guesser(Protocol):
    """Proposes how a text goes on."""

    #: What may be lost on it at first, in steps of the model.
    budget: float
    #: By which a guess must promise to beat plain steps.
    advantage: float
    #: How many observations the first idea of its odds is worth.
    prior_weight: float

    @property
    def reach(self) -> int:
        """How many tokens to guess at most."""

    def update(self) -> None:
        """The text has grown."""

    @property
    def support(self) -> int:
        """How much speaks for the next token of a guess: 0 where there is none to make, and on an open scale."""

    @property
    def expected(self) -> int | None:
        """The next token, where it is known without being computed."""

    def cost(self, n_tokens: int) -> float:
        """What it costs to guess n_tokens, in steps of the model."""

    def guess(self, n_tokens: int) -> list[int]:
        """At most n_tokens that may come next, where there is support."""


class PromptLookup:
    """Guesses that the text goes on as it did after the last tokens stood there before (Saxena 2023).

    Summaries, edits, code and lists repeat long pieces of their prompt or of themselves. `support` is the number of
    tokens that agree before the place that is copied.
    """

    budget, advantage, prior_weight, reach = 1.5, 1.3, 2.0, _SIZES[-1]
    _KEY, _PLACES, _LONGEST = 2, 8, 64  # tokens that must agree; places looked at; agreement counted

    def __init__(self, text: Text) -> None:
        self._text, self._n = text, 0  # tokens of it that were looked at
        self._after: dict[tuple[int, ...], list[int]] = {}  # _KEY tokens → where the text went on after them
        self._place = self.support = 0

    def update(self) -> None:
        ids, after, n_old = self._text.ids, self._after, self._n
        if len(ids) == n_old:
            return
        self._n = len(ids)
        follows = self.support and len(ids) == n_old + 1 and ids[self._place] == ids[-1]
        first = max(0, n_old - self._KEY + 1)
        new = ids[first:-1].tolist()  # to search only for how the last of them goes on
        for at, key in enumerate(zip(*(new[i:] for i in range(self._KEY)), strict=False), first + self._KEY):
            after.setdefault(key, []).append(at)
        places = after.setdefault(tuple(ids[-self._KEY :].tolist()), [])
        if follows:
            self._place, self.support = self._place + 1, min(self.support + 1, self._LONGEST)
        else:
            self._place, self.support = self._best(places)
        places.append(len(ids))

    @property
    def expected(self) -> int | None:
        return int(self._text.ids[self._place]) if self.support else None

    def cost(self, n_tokens: int) -> float:
        return 0

    def guess(self, n_tokens: int) -> list[int]:
        guess: list[int] = self._text.ids[self._place : self._place + n_tokens].tolist()
        while 0 < len(guess) < n_tokens:  # what repeats itself goes on repeating itself
            guess += guess[: n_tokens - len(guess)]
        return guess

    def _best(self, places: Sequence[int]) -> tuple[int, int]:
        """Of the latest places, that before which most tokens agree with the end of the text, and how many."""
        if not places:
            return 0, 0
        ids, best = self._text.ids, (0, 0)
        end = ids[-self._LONGEST :][::-1].tolist()
        for place in places[: -self._PLACES - 1 : -1]:
            before = ids[max(0, place - self._LONGEST) : place][::-1].tolist()
            n = next((i for i, (a, b) in enumerate(zip(before, end, strict=False)) if a != b), len(before))
            if n > best[1]:
                best = place, n
        return best


class Speculation:
    """Decides for one answer when to guess: where the odds are good, and never more than can be afforded to lose.

    The odds that a guess with some support is right come from watching: every token that is drawn, guessed or not,
    tells whether the guesser had it. What may be lost is a budget and a small share of all steps so far, and what has
    been won; no guess is made that could lose more. All this is counted in plain steps, by what the backend says that
    steps cost. Should the clock show twice that loss, guessing ends.
    """

    def __init__(self, guesser: Guesser, step_cost: Callable[[int], float], most: int = _SIZES[-1]) -> None:
        """step_cost: what a step of n tokens costs, in steps of one. most: tokens of a guess."""
        self._guesser, self._cost, self._most = guesser, step_cost, most
        self._budget, self._won = guesser.budget, 0.0  # in plain steps
        self._odds: dict[int, list[float]] = {}  # by class of support: right guesses, all guesses
        self._plain: list[float] = []  # seconds of the latest steps without guesses
        self._slower = [1.0, 1.0]  # how much longer than thought the latest steps with guesses took
        self._lost = 0.0  # by the clock

    def begin(self, n_computed: int) -> None:
        """The prompt is there; n_computed tokens of it cost time."""
        self._guesser.update()
        self._budget += _LOSS_RATE * self._cost(n_computed)

    def guess(self, most: int) -> list[int]:
        """Tokens to compute after the last one in the hope that they are right: none, or at most `most`."""
        support = self._guesser.support
        if not support or self._lost > 2 * self._budget:
            return []
        best, n_best, most = self._guesser.advantage, 0, min(most, self._guesser.reach, self._most)
        hoped, chance, n = 1.0, 1.0, 0
        for size in _SIZES:
            cost = self._guesser.cost(size) + self._cost(1 + size)
            if size > most or cost - 1 > self._budget + self._won:
                break
            while n < size:
                chance *= self._chance(support + n)
                hoped, n = hoped + chance, n + 1
            if hoped / cost > best:
                best, n_best = hoped / cost, size
        return self._guesser.guess(n_best) if n_best else []

    def drawn(self, token: int) -> None:
        """The text has gone on with this token."""
        if (expected := self._guesser.expected) is not None:
            support = self._guesser.support
            odds = self._odds.setdefault(_class(support), self._prior(support))
            odds[0] += expected == token
            odds[1] += 1
            if odds[1] > 50:  # what is long ago counts less
                odds[:] = odds[0] / 2, odds[1] / 2
        self._guesser.update()

    def spent(self, n_tokens: int, n_drawn: int, seconds: float) -> None:
        """A step of n_tokens took so long, and gave n_drawn."""
        cost = self._cost(n_tokens) + self._guesser.cost(n_tokens - 1)
        self._won += n_drawn - cost
        self._budget += _LOSS_RATE * cost
        if n_tokens == 1:
            self._plain = [*self._plain[-8:], seconds]
            self._forget()
        elif self._plain:  # medians: a step that had to wait for another process tells nothing
            self._slower = [*self._slower[-8:], seconds / (cost * _median(self._plain))]
            self._lost += cost * _median(self._slower) - n_drawn

    def _forget(self) -> None:
        """Odds that nothing was seen of return to what was thought at first, for another try one day."""
        support = self._guesser.support
        if support and self._guesser.expected is None and (odds := self._odds.get(_class(support))):
            odds[:] = (0.98 * old + 0.02 * first for old, first in zip(odds, self._prior(support), strict=True))

    def _chance(self, support: int) -> float:
        right, total = self._odds.get(_class(support)) or self._prior(support)
        return right / total

    def _prior(self, support: int) -> list[float]:
        """What to expect at first: the longer the agreement, the better."""
        return [self._guesser.prior_weight * support / (support + 3), self._guesser.prior_weight]


def _median(numbers: Sequence[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


def _class(support: int) -> int:
    """Supports that share their odds: from 8 on all of them."""
    return min(support, 8)

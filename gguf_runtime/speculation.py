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

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

_SIZES = (1, 2, 3, 5, 7, 15, 23, 31)  # tokens to guess: with the one before them, steps of 2 to 32
_INTEREST = 0.015  # share of all steps that may be lost, beside the guesser's credit


class Guesser(Protocol):
    """Proposes how a text goes on."""

    #: What may be lost on it at first, in steps of the model.
    credit: float
    #: By which a guess must promise to beat plain steps.
    advantage: float
    #: How many observations the first idea of its odds is worth.
    faith: float

    @property
    def reach(self) -> int:
        """How many tokens to guess at most."""

    def extend(self, tokens: Iterable[int]) -> None:
        """The text goes on with these tokens."""

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

    credit, advantage, faith, reach = 1.5, 1.3, 2.0, _SIZES[-1]
    _KEY, _PLACES, _LONGEST = 2, 8, 64  # tokens that must agree; places looked at; agreement counted

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], list[int]] = {}  # _KEY tokens → where the text went on after them
        self._place = self.support = 0

    def extend(self, tokens: Iterable[int]) -> None:
        text, after = self._tokens, self._after
        tokens = [*tokens]
        if most := tokens[:-1]:  # to search only for how the last of them goes on
            n = max(0, len(text) - self._KEY + 1)
            text += most
            for at, key in enumerate(zip(*(text[n + i :] for i in range(self._KEY)), strict=False), n + self._KEY):
                after.setdefault(key, []).append(at)
            self.support = 0
        for token in tokens[len(most) :]:
            follows = self.support and text[self._place] == token
            text.append(token)
            places = after.setdefault(tuple(text[-self._KEY :]), [])
            if follows:
                self._place, self.support = self._place + 1, min(self.support + 1, self._LONGEST)
            else:
                self._place, self.support = self._best(places)
            places.append(len(text))

    @property
    def expected(self) -> int | None:
        return self._tokens[self._place] if self.support else None

    def cost(self, n_tokens: int) -> float:
        return 0

    def guess(self, n_tokens: int) -> list[int]:
        guess = self._tokens[self._place : self._place + n_tokens]
        while 0 < len(guess) < n_tokens:  # what repeats itself goes on repeating itself
            guess += guess[: n_tokens - len(guess)]
        return guess

    def _best(self, places: Sequence[int]) -> tuple[int, int]:
        """Of the latest places, that before which most tokens agree with the end of the text, and how many."""
        text, best = self._tokens, (0, 0)
        for place in places[: -self._PLACES - 1 : -1]:
            n = self._KEY
            while n < min(place, self._LONGEST) and text[place - 1 - n] == text[-1 - n]:
                n += 1
            if n > best[1]:
                best = place, n
        return best


class Speculation:
    """Decides for one answer when to guess: where the odds are good, and never more than can be afforded to lose.

    The odds that a guess with some support is right come from watching: every token that is drawn, guessed or not,
    tells whether the guesser had it. What may be lost is a credit and a small share of all steps so far, and what has
    been won; no guess is made that could lose more. All this is counted in plain steps, by what the backend says that
    steps cost. Should the clock show twice that loss, guessing ends.
    """

    def __init__(self, guesser: Guesser, step_cost: Callable[[int], float], most: int = _SIZES[-1]) -> None:
        """step_cost: what a step of n tokens costs, in steps of one. most: tokens of a guess."""
        self._guesser, self._cost, self._most = guesser, step_cost, most
        self._credit, self._won = guesser.credit, 0.0  # in plain steps
        self._odds: dict[int, list[float]] = {}  # by class of support: right guesses, all guesses
        self._plain: list[float] = []  # seconds of the latest steps without guesses
        self._slower = [1.0, 1.0]  # how much longer than thought the latest steps with guesses took
        self._lost = 0.0  # by the clock

    def begin(self, prompt: Sequence[int], n_computed: int) -> None:
        """The text so far; n_computed tokens of it cost time."""
        self._guesser.extend(prompt)
        self._credit += _INTEREST * self._cost(n_computed)

    def guess(self, most: int) -> list[int]:
        """Tokens to compute after the last one in the hope that they are right: none, or at most `most`."""
        support = self._guesser.support
        if not support or self._lost > 2 * self._credit:
            return []
        best, n_best, most = self._guesser.advantage, 0, min(most, self._guesser.reach, self._most)
        hoped, chance, n = 1.0, 1.0, 0
        for size in _SIZES:
            cost = self._guesser.cost(size) + self._cost(1 + size)
            if size > most or cost - 1 > self._credit + self._won:
                break
            while n < size:
                chance *= self._chance(support + n)
                hoped, n = hoped + chance, n + 1
            if hoped / cost > best:
                best, n_best = hoped / cost, size
        return self._guesser.guess(n_best) if n_best else []

    def drawn(self, token: int) -> None:
        """The text goes on with this token."""
        if (expected := self._guesser.expected) is not None:
            support = self._guesser.support
            odds = self._odds.setdefault(_class(support), self._prior(support))
            odds[0] += expected == token
            odds[1] += 1
            if odds[1] > 50:  # what is long ago counts less
                odds[:] = odds[0] / 2, odds[1] / 2
        self._guesser.extend([token])

    def spent(self, n_tokens: int, n_drawn: int, seconds: float) -> None:
        """A step of n_tokens took so long, and gave n_drawn."""
        cost = self._cost(n_tokens) + self._guesser.cost(n_tokens - 1)
        self._won += n_drawn - cost
        self._credit += _INTEREST * cost
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
        return [self._guesser.faith * support / (support + 3), self._guesser.faith]


def _median(numbers: Sequence[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


def _class(support: int) -> int:
    """Supports that share their odds: from 8 on all of them."""
    return min(support, 8)

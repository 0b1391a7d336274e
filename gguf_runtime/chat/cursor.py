"""A place in a text that is still coming. What reads there is a generator, which yields where it needs more of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache
from typing import TypeVar

from ..text import overlap

T = TypeVar("T")
Sink = Callable[[str], None]  # what takes texts that are passed on

#: What reads and needs more text now and then; its value comes with `yield from`.
Reading = Generator[None, None, T]

_SPACE = re.compile(r"\s*")


class Mismatch(Exception):
    """The text is not of the form that it seemed to begin."""


class TextCursor:
    """at: the next character to read. held: where what may have to be read otherwise begins; None for nowhere."""

    def __init__(self) -> None:
        self.text, self.at, self.ended = "", 0, False
        self.held: int | None = None

    def feed(self, text: str) -> None:
        """More has come."""
        start = self.at if self.held is None else self.held
        self.text, self.at = self.text[start:] + text, self.at - start
        if self.held is not None:
            self.held = 0

    def has(self, n: int) -> Reading[bool]:
        """Whether there are n more characters, once that can be told."""
        while len(self.text) - self.at < n:
            if self.ended:
                return False
            yield
        return True

    def peek(self, n: int = 1) -> Reading[str]:
        """The next n characters, or fewer at the end."""
        yield from self.has(n)
        return self.text[self.at : self.at + n]

    def take(self, n: int) -> str:
        """The next n characters, which are there."""
        self.at += n
        return self.text[self.at - n : self.at]

    def is_next(self, literal: str, ahead: int = 0) -> Reading[bool]:
        """Whether exactly this comes next, or so many characters ahead."""
        while True:
            found = self.text[self.at + ahead : self.at + ahead + len(literal)]
            if found == literal:
                return True
            if self.ended or not literal.startswith(found):
                return False
            yield

    def space(self, ahead: int = 0) -> Reading[int]:
        """How many characters ahead the white space ends that begins so many ahead."""
        while True:
            found = _SPACE.match(self.text, self.at + ahead)
            ahead = found.end() - self.at if found else ahead
            if self.at + ahead < len(self.text) or self.ended:
                return ahead
            yield

    def skip_space(self) -> Reading[None]:
        n = yield from self.space()  # meanwhile, the place may have been counted anew
        self.at += n

    def accept(self, literal: str) -> Reading[bool]:
        """Read this, with any white space before it and where it has some, if it begins so. Raises Mismatch where it
        only begins so."""
        for i, chunk in enumerate(literal.split()):
            n = yield from self.space()
            if not (yield from self.is_next(chunk, n)):
                if i:
                    raise Mismatch
                return False
            self.at += n + len(chunk)
        return True

    def expect(self, literal: str) -> Reading[None]:
        """Read this. Raises Mismatch."""
        if not (yield from self.accept(literal)):
            raise Mismatch

    def first_of(self, literals: Iterable[str], ahead: int = 0) -> Reading[str]:
        """Which of these comes next, or so many characters ahead, after white space: the longest; "" for none."""
        ahead = yield from self.space(ahead)
        for literal in sorted(filter(None, literals), key=len, reverse=True):
            if (yield from self.is_next(literal, ahead)):
                return literal
        return ""

    def until(self, end: str, limit: int) -> Reading[str]:
        """Read what comes before this. Raises Mismatch where that is longer than the limit, or this does not come."""
        while (n := self.text.find(end, self.at) - self.at) < 0:
            if self.ended or len(self.text) - self.at > limit + len(end):
                raise Mismatch
            yield
        if n > limit:
            raise Mismatch
        return self.take(n)

    def pass_on(self, end: str, sink: Sink) -> Reading[None]:
        """Read up to this and with it, and pass on what comes before. Raises Mismatch where it does not come."""
        while (n := self.text.find(end, self.at) - self.at) < 0:
            if self.ended:
                raise Mismatch
            sink(self.take(max(0, self.certain(end))))
            yield
        sink(self.take(n))
        self.take(len(end))

    def match(self, pattern: re.Pattern[str], limit: int) -> Reading[str]:
        """The longest run of what a pattern takes, character by character. Raises Mismatch beyond the limit."""
        n = 0
        while True:
            found = pattern.match(self.text, self.at + n)
            n = found.end() - self.at if found else n
            if n > limit:
                raise Mismatch
            if self.at + n < len(self.text) or self.ended:
                return self.take(n)
            yield

    def certain(self, *ends: str) -> int:
        """How many of the characters that have come are no part of any of these."""
        return len(self.text) - self.at - max((overlap(self.text[self.at :], end) for end in ends), default=0)


@lru_cache(maxsize=256)
def any_of(literals: tuple[str, ...]) -> re.Pattern[str]:
    """Any of these, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, literals), key=len, reverse=True))) or r"(?!)")

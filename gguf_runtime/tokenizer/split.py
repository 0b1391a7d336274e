"""Cutting text into the pieces that byte-level BPE works on, by regular expressions over Unicode classes.

Python's `re` knows no Unicode classes, so the expressions run over a copy of the text in which each character
that is not ASCII is replaced by one that stands for its class; [\\p{L}] is then a short list of characters.
As llama.cpp does (src/unicode.cpp), several expressions are applied one after another, each to every piece that
the one before has made, and what an expression does not match is a piece too.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from .unicode_table import RUNS

#: Stand-ins: letters other than Han, Han, numbers, marks, punctuation, symbols, anything else; white space.
_LETTER, _HAN, _NUMBER, _MARK, _PUNCTUATION, _SYMBOL, _OTHER, _SPACE = "ª一²\u0300¡¢\x80\v"
_STAND_INS = {"L": _LETTER, "N": _NUMBER, "M": _MARK, "P": _PUNCTUATION, "S": _SYMBOL}
_SPACES = (
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_HAN_RANGES = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2EBEF), (0x2F800, 0x2FA1F),
)  # fmt: skip

#: What an expression may have inside [ ] → what that means. Only ASCII letters have a case, as in llama.cpp.
_CLASSES = {
    r"\p{L}": "A-Za-z" + _LETTER + _HAN,
    r"\p{upper}": "A-Z" + _LETTER + _HAN,
    r"\p{lower}": "a-z" + _LETTER + _HAN,
    r"\p{L-Han}": "A-Za-z" + _LETTER,
    r"\p{Han}": _HAN,
    r"\p{N}": "0-9" + _NUMBER,
    r"\p{M}": _MARK,
    r"\p{P}": r"!-#%-*,-/:;?@\[-\]_{}" + _PUNCTUATION,
    r"\p{S}": r"$+<->\^`|~" + _SYMBOL,
}


class Thousands(NamedTuple):
    """Cuts runs of digits into groups of three from their right end, and after them."""

    digits: str
    cut_after: bool = True


class Splitter:
    """Cuts text into pieces; none is empty, and joined they are the text."""

    def __init__(self, expressions: Sequence[str | Thousands]) -> None:
        self._steps = [_compile(expression) for expression in expressions]

    def __call__(self, text: str) -> list[str]:
        by_class = plain = text
        if not text.isascii():
            by_class, plain = text.translate(_CLASS_OF), text.translate(_SPACE_OF)
        ends = [len(text)]
        for has_classes, cut in self._steps:
            view = by_class if has_classes else plain
            start, before, ends = 0, ends, []
            for end in before:
                for piece in cut(view[start:end]):
                    if piece:
                        start += len(piece)
                        ends.append(start)
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _compile(expression: str | Thousands) -> tuple[bool, Callable[[str], list[str]]]:
    """Whether the expression has classes, and what cuts a text by it into pieces, some perhaps empty."""
    pattern = expression if isinstance(expression, str) else expression.digits
    has_classes = r"\p{" in pattern
    for name, members in _CLASSES.items():
        pattern = pattern.replace(name, members)
    compiled = re.compile(f"({pattern})", re.ASCII)
    if isinstance(expression, str):
        return has_classes, compiled.split  # with its one group: the matches, and what is between them
    cut_after = expression.cut_after

    def cut(text: str) -> list[str]:
        pieces, start = [], 0
        for digits in compiled.finditer(text):
            first, end = digits.span()
            remainder = (end - first) % 3
            for stop in range(first + (remainder or 3 * cut_after), end + cut_after, 3):
                pieces.append(text[start:stop])
                start = stop
        return [*pieces, text[start:]]

    return has_classes, cut


class _ClassOf(dict[int, str]):
    """Code point → stand-in, found when it is first asked for."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _class_of(chr(code))
        return found


def _class_of(character: str) -> str:
    if character < "\x80":
        return character
    if character in _SPACES:
        return _SPACE
    starts, letters = _runs()
    stand_in = _STAND_INS.get(letters[bisect_right(starts, ord(character)) - 1], _OTHER)
    if stand_in == _LETTER and any(first <= ord(character) <= last for first, last in _HAN_RANGES):
        return _HAN
    return stand_in


@cache
def _runs() -> tuple[list[int], list[str]]:
    """Where each run of characters of one category starts, and that category. Most texts do without."""
    runs = re.findall("([A-Z])([0-9a-f]*)", RUNS)
    ends = accumulate(int(length or "1", 16) for _, length in runs)
    return [0, *ends], [letter for letter, _ in runs]


_CLASS_OF = _ClassOf()
_SPACE_OF = {ord(space): _SPACE for space in _SPACES}

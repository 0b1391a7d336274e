"""Cutting text into the pieces that byte-level BPE works on, by regular expressions over Unicode classes.

Python's `re` knows no Unicode classes, so the expressions run over a copy of the text in which each character
that is not ASCII is replaced by one that stands for its class; [\\p{L}] is then a short list of characters.
As llama.cpp does (src/unicode.cpp), several expressions are applied one after another, each to every piece that
the one before has made, and what an expression does not match is a piece too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

#: Stand-ins: letters other than Han, Han, numbers, marks, punctuation, symbols, anything else; white space.
_LETTER, _HAN, _NUMBER, _MARK, _PUNCTUATION, _SYMBOL, _OTHER, _SPACE = "ª一²\u0300¡¢\x80\v"
_STAND_INS = {"L": _LETTER, "N": _NUMBER, "M": _MARK, "P": _PUNCTUATION, "S": _SYMBOL}
_SPACES = (
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_HAN_RANGES = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2EBEF), (0x2F800, 0x2FA1F),
)  # fmt: skip

#: What stands in an expression → what it means inside [ ]. Case is known of ASCII only, and ~ is no symbol: that
#: is how llama.cpp tells them.
_CLASSES = {
    r"\p{L}": "A-Za-z" + _LETTER + _HAN,
    r"\p{upper}": "A-Z" + _LETTER + _HAN,
    r"\p{lower}": "a-z" + _LETTER + _HAN,
    r"\p{letter}": "A-Za-z" + _LETTER,
    r"\p{Han}": _HAN,
    r"\p{N}": "0-9" + _NUMBER,
    r"\p{M}": _MARK,
    r"\p{P}": r"!-#%-*,-/:;?@\[-\]_{}" + _PUNCTUATION,
    r"\p{S}": r"$+<->\^`|" + _SYMBOL,
}


class Thousands(str):
    """An expression for runs of digits, which are cut into groups of three from their right end."""


class Splitter:
    """Cuts text into pieces; none is empty, and joined they are the text."""

    def __init__(self, expressions: Sequence[str]) -> None:
        self._steps: list[tuple[bool, Callable[[str], list[str]]]] = []
        for expression in expressions:
            by_class = r"\p{" in expression
            expanded = expression
            for name, members in _CLASSES.items():
                expanded = expanded.replace(name, members)
            cut = _cut_thousands if isinstance(expression, Thousands) else _cut
            self._steps.append((by_class, cut(re.compile(f"({expanded})", re.ASCII))))

    def __call__(self, text: str) -> list[str]:
        ascii_text = text.isascii()
        classes = text if ascii_text else text.translate(_CLASS_OF)
        plain = text if ascii_text else text.translate(_SPACE_OF)
        ends = [len(text)]
        for by_class, cut in self._steps:
            view = classes if by_class else plain
            start, before, ends = 0, ends, []
            for end in before:
                for piece in cut(view[start:end]):
                    if piece:
                        start += len(piece)
                        ends.append(start)
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _cut(pattern: re.Pattern[str]) -> Callable[[str], list[str]]:
    return pattern.split  # with its one group it gives the matches and what is between them


def _cut_thousands(pattern: re.Pattern[str]) -> Callable[[str], list[str]]:
    def cut(text: str) -> list[str]:
        pieces, start = [], 0
        for run in pattern.finditer(text):
            first, end = run.span()
            for stop in range(first + ((end - first) % 3 or 3), end + 1, 3):
                pieces.append(text[start:stop])
                start = stop
        return [*pieces, text[start:]]

    return cut


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
    if any(first <= ord(character) <= last for first, last in _HAN_RANGES):
        return _HAN
    return _STAND_INS.get(unicodedata.category(character)[0], _OTHER)


_CLASS_OF = _ClassOf()
_SPACE_OF = {ord(space): _SPACE for space in _SPACES}

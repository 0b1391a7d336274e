"""Grammars in llama.cpp's notation, GBNF: read, checked, and made simple.

A rule is `name ::= …`: texts in quotes, classes of characters in brackets, `.` for any character, names of rules,
groups, `|`, and `* + ? {m,n}` for repetition. `#` begins a comment. The answer follows the rule named root.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

_TOKEN = re.compile(
    r"""(?P<rule>[A-Za-z0-9_-]+)[ \t]*::=
    |   (?P<name>[A-Za-z0-9_-]+)
    |   "(?P<text>(?:\\.|[^"\\])*)"
    |   \[(?P<without>\^?)(?P<class>(?:\\.|[^\]\\])*)\]
    |   \{\s*(?P<low>\d{1,5})\s*(?P<comma>,\s*(?P<high>\d{1,5})?\s*)?\}
    |   (?P<sign>[.|()*+?])
    """,
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"(?:\s|#[^\n]*)+")
_CHARACTER = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([nrt\\\"\[\]^-]))|([^\\])", re.DOTALL
)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_MAX_TIMES = 2000  # as llama.cpp
_END = 0x110000

Ranges = tuple[tuple[int, int], ...]  # of code points: first and last, ascending and apart


@dataclass(frozen=True, eq=False)
class Chars:
    """Any one of these characters."""

    ranges: Ranges


@dataclass(frozen=True, eq=False)
class Sequence:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Choice:
    """Any one of these."""

    items: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """So many times at least and at most; None: without end."""

    item: Node
    low: int
    high: int | None


@dataclass(frozen=True, eq=False)
class Ref:
    """What the rule of this name says."""

    name: str


Node = Chars | Sequence | Choice | Repeat | Ref
Rules = dict[str, Node]


def parse(text: str) -> Rules:
    """The rules of a grammar, root among them; each can come to an end. Raises ValueError, with line and column."""
    return {name: _loop(name, body) for name, body in _Parser(text).rules().items()}


def deriving(rules: Mapping[str, Node], characters: bool) -> set[str]:
    """The rules that derive a text at all; without characters: those that derive the empty text."""
    found: set[str] = set()
    while more := {name for name, body in rules.items() if name not in found and derives(body, found, characters)}:
        found |= more
    return found


def derives(node: Node, rules: set[str], characters: bool) -> bool:
    """Whether a node derives a text (without characters: the empty one), given the rules that do."""
    match node:
        case Sequence(items):
            return all(derives(item, rules, characters) for item in items)
        case Choice(items):
            return any(derives(item, rules, characters) for item in items)
        case Repeat(item, low, _):
            return low == 0 or derives(item, rules, characters)
        case Ref(name):
            return name in rules
    return characters


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = self._end = 0  # of the token
        self._refs: dict[str, int] = {}  # where a rule is named first
        self._next()

    def rules(self) -> Rules:
        rules: Rules = {}
        begins: dict[str, int] = {}
        while self._token:
            name = self._token["rule"]
            if not name:
                self._fail("a rule begins with its name and ::=")
            if name in rules:
                self._fail(f"the rule {name} is there twice")
            begins[name] = self._at
            self._next()
            rules[name] = self._choice()
            if self._is(")"):
                self._fail("nothing is open that this closes")
        for name, at in self._refs.items():
            if name not in rules:
                self._fail(f"there is no rule {name}", at)
        if "root" not in rules:
            self._fail("there is no rule root, with which an answer begins")
        endless = rules.keys() - deriving(rules, characters=True)
        for name in (name for name in reversed(rules) if name in endless):
            self._fail(f"what the rule {name} stands for never ends", begins[name])
        return rules

    def _choice(self) -> Node:
        items = [self._sequence()]
        while self._is("|"):
            self._next()
            items.append(self._sequence())
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._token and not self._token["rule"] and not self._is("|", ")"):
            items.append(self._repeats(self._item()))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _repeats(self, item: Node) -> Node:
        while self._token:
            if self._is("*", "+", "?"):
                low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self._token["sign"]]
            elif self._token["low"]:
                low = int(self._token["low"])
                high = int(self._token["high"]) if self._token["high"] else None if self._token["comma"] else low
            else:
                break
            if max(low, high or 0) > _MAX_TIMES:
                self._fail(f"more than {_MAX_TIMES} times")
            if high is not None and high < low:
                self._fail("more times at least than at most")
            item = Sequence(()) if high == 0 else Repeat(item, low, high)
            self._next()
        return item

    def _item(self) -> Node:
        token, at = self._token, self._at
        assert token
        if self._is("*", "+", "?") or token["low"]:
            self._fail("there is nothing to repeat")
        self._next()
        if token["name"]:
            self._refs.setdefault(token["name"], at)
            return Ref(token["name"])
        if token["text"] is not None:
            chars = [Chars(_ranges([(ord(c), ord(c))])) for c, _ in self._characters(token, "text")]
            if not all(char.ranges for char in chars):
                self._fail("half a surrogate pair is no character; \\U0001F600 is how to write one beyond \\uFFFF", at)
            return chars[0] if len(chars) == 1 else Sequence(tuple(chars))
        if token["sign"] == ".":
            return Chars(_ranges([(0, _END - 1)]))
        if token["sign"] == "(":
            group = self._choice()
            if not self._is(")"):
                self._fail("a group is not closed", at)
            self._next()
            return group
        ranges = _ranges(self._spans(token))
        if token["without"]:
            ends = [-1, *(end for span in ranges for end in span), _END]
            ranges = _ranges([(a + 1, b - 1) for a, b in zip(ends[::2], ends[1::2], strict=True)])
        if not ranges:
            self._fail("no character fits this class", at)
        return Chars(ranges)

    def _spans(self, token: re.Match[str]) -> list[tuple[int, int]]:
        spans, chars = [], self._characters(token, "class")
        while chars:
            low = high = chars.pop(0)[0]
            if len(chars) > 1 and chars[0] == ("-", False):
                high = chars[1][0]
                del chars[:2]
            if high < low:
                self._fail(f"the range {low}-{high} is the wrong way round", token.start())
            spans.append((ord(low), ord(high)))
        return spans

    def _characters(self, token: re.Match[str], group: str) -> list[tuple[str, bool]]:
        """Each character, and whether it was written with a backslash."""
        found, at = [], token.start(group)
        while at < token.end(group):
            match = _CHARACTER.match(self._text, at)
            code = match and (match[1] or match[2] or match[3])
            if not match or (code and int(code, 16) >= _END):
                self._fail("no such escape", at)
            found.append((chr(int(code, 16)) if code else match[5] or _CONTROLS.get(match[4], match[4]), not match[5]))
            at = match.end()
        return found

    def _is(self, *signs: str) -> bool:
        return self._token is not None and self._token["sign"] in signs

    def _next(self) -> None:
        """Go on to the next token; None at the end."""
        space = _SPACE.match(self._text, self._end)
        self._at = at = space.end() if space else self._end
        self._token = _TOKEN.match(self._text, at)
        self._end = self._token.end() if self._token else at
        if not self._token and at < len(self._text):
            begun = {'"': "a text is not closed", "[": "a class of characters is not closed",
                     "{": "a repetition is {m}, {m,} or {m,n}", "<": "tokens are not supported here",
                     "!": "tokens are not supported here"}  # fmt: skip
            self._fail(begun.get(self._text[at], f"{self._text[at]!r} means nothing here"))

    def _fail(self, why: str, at: int | None = None) -> NoReturn:
        before = self._text[: self._at if at is None else at]
        raise ValueError(f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}: {why}")


def _ranges(spans: list[tuple[int, int]]) -> Ranges:
    """In order, without overlaps, and without surrogates, which are no characters."""
    cut = []
    for low, high in spans:
        cut += [(low, min(high, 0xD7FF)), (max(low, 0xE000), high)]
    merged: list[tuple[int, int]] = []
    for low, high in sorted(span for span in cut if span[0] <= span[1]):
        if merged and low <= merged[-1][1] + 1:
            low, high = merged[-1][0], max(high, merged.pop()[1])
        merged.append((low, high))
    return tuple(merged)


def _loop(name: str, body: Node) -> Node:
    """A rule that names itself only where it ends, such as `ws ::= ([ \\t] ws)?`, is a repetition."""
    ways = _ways(name, body)
    if not any(again for _, again in ways) or any(_names(name, item) for items, _ in ways for item in items):
        return body
    rounds = tuple(Sequence(items) for items, again in ways if again and items)
    ends = tuple(Sequence(items) for items, again in ways if not again)
    return Sequence((Repeat(Choice(rounds), 0, None), Choice(ends))) if rounds and ends else body


def _ways(name: str, node: Node) -> list[tuple[tuple[Node, ...], bool]]:
    """The alternatives of a rule: what comes first, and whether the rule itself follows."""
    match node:
        case Ref(other) if other == name:
            return [((), True)]
        case Choice(items):
            return [way for item in items for way in _ways(name, item)]
        case Sequence(items) if items:
            return [((*items[:-1], *more), again) for more, again in _ways(name, items[-1])]
        case Repeat(item, 0, 1):
            return [*_ways(name, item), ((), False)]
    return [((node,), False)]


def _names(name: str, node: Node) -> bool:
    match node:
        case Sequence(items) | Choice(items):
            return any(_names(name, item) for item in items)
        case Repeat(item, _, _):
            return _names(name, item)
    return isinstance(node, Ref) and node.name == name

"""From rules to lexemes and rules over them, as llguidance wants a grammar, without changing its language.

llguidance reads the text in lexemes (regular expressions), each as long as it can be, and the rules say which may come
next. Long lexemes are fast: computing a mask costs a few hundredths of a millisecond within one, milliseconds where
each character is a lexeme. But being greedy is right only where nothing else could have been meant. So what is regular
is one lexeme, unless a text x that is a lexeme A, with a byte c that may follow A, also begins a lexeme B that may
stand where A does: then B is taken apart, into the lexemes and rules it is made of. Single characters are always right.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from .gbnf import Chars, Choice, Node, Ranges, Ref, Repeat, Rules, Sequence, derives, deriving

_MAX_SIZE = 250  # of a lexeme, in nodes
_MAX_ROUNDS = 12  # of taking apart
_MAX_UNROLLED = 16  # longer repetitions are taken to go on without end, which errs towards smaller lexemes


def lark(rules: Rules) -> str:
    """The grammar in llguidance's notation. Every rule must be able to end."""
    grammar = _Grammar(rules)
    rounds = 0
    while grammar.take_apart():
        rounds += 1
        if rounds == _MAX_ROUNDS:
            grammar.max_size = 0  # all of it in single characters
    return grammar.lark()


class _Grammar:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._empty = deriving(rules, characters=False)
        self._sizes: dict[Node | str, int] = {}
        self._regexes: dict[Node, str] = {}
        self._halves: dict[Node, tuple[Node, ...]] = {}
        self.max_size = _MAX_SIZE
        self._apart: set[str] = set()  # the regular expressions that are not to be lexemes
        self._number_lexemes()

    def _number_lexemes(self) -> None:
        self._numbers: dict[str, int] = {}  # of lexemes, by regular expression
        self._lexemes: list[Node] = []
        self._first = dict.fromkeys(self._rules, 0)
        while (first := {name: self._begin(body) for name, body in self._rules.items()}) != self._first:
            self._first = first
        self._rules_used, self._after = self._follow()

    def take_apart(self) -> bool:
        """Whether there were lexemes that could go on where another, or the same, should end."""
        after = [self._after.get(number, 0) for number in range(len(self._lexemes))]
        greedy = _Automaton(self, self._lexemes).conflicts(self._begin(Ref("root")), after)
        self._apart |= {self.regex(self._lexemes[number]) for number in greedy}
        self._number_lexemes()
        return bool(greedy)

    def lark(self) -> str:
        """The text for llguidance."""
        names = {name: f"r{i}" for i, name in enumerate(self._rules_used)}
        lines = [f"start: {self._written(Ref('root'), names)}"]
        lines += [f"{names[name]}: {self._written(self._rules[name], names)}" for name in names]
        lines += [f"T{number}: /{self.regex(self._lexemes[number])}/" for number in self._after]
        return "\n".join(lines)

    def is_lexeme(self, node: Node) -> bool:
        """Whether a node is one lexeme."""
        return isinstance(node, Chars) or (self._size(node) <= self.max_size and self.regex(node) not in self._apart)

    def can_be_empty(self, node: Node) -> bool:
        return derives(node, self._empty, characters=False)

    def _begin(self, node: Node) -> int:
        """The lexemes a node may begin with, as bits."""
        if self.is_lexeme(node):
            number = self._numbers.setdefault(self.regex(node), len(self._lexemes))
            if number == len(self._lexemes):
                self._lexemes.append(node)
            return 1 << number
        match node:
            case Repeat(item, _, _):
                return self._begin(item)
            case Ref(name):
                return self._first[name]
            case Choice(items):
                return _union(self._begin(item) for item in items)
            case Sequence():
                found = 0
                for item in self._parts(node):
                    found |= self._begin(item)
                    if not self.can_be_empty(item):
                        break
                return found
        raise AssertionError(node)

    def rule(self, name: str) -> Node:
        return self._rules[name]

    def regex(self, node: Node) -> str:
        """A regular node as a regular expression."""
        if node not in self._regexes:
            self._regexes[node] = self._as_regex(node)
        return self._regexes[node]

    def _as_regex(self, node: Node) -> str:
        match node:
            case Chars(ranges):
                spans = "".join(f"{_escaped(a)}-{_escaped(b)}" if a < b else _escaped(a) for a, b in ranges)
                return spans if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else f"[{spans}]"
            case Sequence(items):
                return "".join(self.regex(item) for item in items) or "(?:)"
            case Choice(items):
                return f"(?:{'|'.join(self.regex(item) for item in items)})"
            case Repeat(item, low, high):
                return f"(?:{self.regex(item)}){_times(low, high)}"
            case Ref(name):
                return f"(?:{self.regex(self._rules[name])})"

    def _follow(self) -> tuple[dict[str, int], dict[int, int]]:
        """The rules in use, by name, and the lexemes, by number; each with the lexemes that may follow, as bits."""
        rules: dict[str, int] = {}
        lexemes: dict[int, int] = {}
        todo: list[tuple[Node, int]] = [(Ref("root"), 0)]
        while todo:
            node, after = todo.pop()
            if self.is_lexeme(node):
                number = self._begin(node).bit_length() - 1
                lexemes[number] = lexemes.get(number, 0) | after
                continue
            match node:
                case Ref(name):
                    if name not in rules or after & ~rules[name]:
                        rules[name] = rules.get(name, 0) | after
                        todo.append((self._rules[name], rules[name]))
                case Repeat(item, _, high):
                    todo.append((item, after if high == 1 else after | self._begin(item)))
                case Choice(items):
                    todo += [(item, after) for item in items]
                case Sequence():
                    for item in reversed(self._parts(node)):
                        todo.append((item, after))
                        after = self._begin(item) | (after if self.can_be_empty(item) else 0)
        return rules, lexemes

    def _written(self, node: Node, names: dict[str, str]) -> str:
        if self.is_lexeme(node):
            return f"T{self._numbers[self.regex(node)]}"
        match node:
            case Ref(name):
                return names[name]
            case Repeat(item, low, high):
                return f"({self._written(item, names)}){_times(low, high)}"
            case Choice(items):
                return f"({' | '.join(self._written(item, names) for item in items)})"
            case Sequence():
                return " ".join(self._written(item, names) for item in self._parts(node)) or '""'
        raise AssertionError(node)

    def _parts(self, node: Sequence) -> tuple[Node, ...]:
        """What a sequence is taken apart into: long lexemes still, where it is regular and more than a text."""
        items = node.items
        if len(items) < 3 or self._size(node) > self.max_size or all(isinstance(item, Chars) for item in items):
            return items
        if node not in self._halves:
            cut = len(items) - 1 if len(items) < 9 else len(items) // 2
            parts = items[:cut], items[cut:]
            self._halves[node] = tuple(part[0] if len(part) == 1 else Sequence(part) for part in parts)
        return self._halves[node]

    def _size(self, node: Node) -> int:
        """Nodes of the tree with all rules written out; too many where one names itself."""
        if node in self._sizes:
            return self._sizes[node]
        match node:
            case Ref(name):
                if name not in self._sizes:
                    self._sizes[name] = _MAX_SIZE + 1
                    self._sizes[name] = self._size(self._rules[name])
                return self._sizes[name]
            case Repeat(item, _, high):
                size = self._size(item) * (high if high and high <= _MAX_UNROLLED else 1)
            case Sequence(items) | Choice(items):
                size = sum(self._size(item) for item in items)
            case _:
                size = 0
        self._sizes[node] = min(1 + size, _MAX_SIZE + 1)
        return self._sizes[node]


class _Automaton:
    """Lexemes side by side: a state for each place in them where a character is read (Glushkov's construction)."""

    def __init__(self, grammar: _Grammar, lexemes: list[Node]) -> None:
        self._grammar = grammar
        self._ranges: list[Ranges] = []
        self._next: list[int] = []  # the states that may come after each, as bits
        self._owner: list[int] = []
        self._starts: list[int] = []  # of each lexeme
        self._ends = 0
        for number, node in enumerate(lexemes):
            first, last = self._build(node)
            self._starts.append(first)
            self._ends |= last
            self._owner += [number] * (len(self._ranges) - len(self._owner))

    def conflicts(self, begin: int, after: list[int]) -> set[int]:
        """The lexemes with a text that is another's, or its own, and a byte that may follow that one.

        begin: the lexemes with which a text may begin; after: for each lexeme, those that may follow; as bits.
        """
        alike = {ranges: self._overlapping(ranges) for ranges in set(self._ranges)}
        then = [_union(self._starts[lexeme] for lexeme in _bits(bits)) for bits in after]
        start = _union(self._starts[lexeme] for lexeme in _bits(begin))
        together = [0] * len(self._ranges)  # for each state, the states that the same text may lead to
        todo: dict[int, int] = {}

        def meet(states: int, others: int) -> None:
            for state in _bits(states):
                if new := others & alike[self._ranges[state]] & ~together[state]:
                    together[state] |= new
                    todo[state] = todo.get(state, 0) | new

        meet(start, start)
        while todo:
            state, others = todo.popitem()
            meet(self._next[state], _union(self._next[other] for other in _bits(others)))
            if self._ends >> state & 1:  # two lexemes of one text, and what may follow each
                ended = _bits(others & self._ends)
                meet(then[self._owner[state]], _union(then[self._owner[other]] for other in ended))
        goes_on = [self._bytes(states) for states in self._next]
        follow = [self._bytes(states) for states in then]
        return {
            self._owner[other]
            for state in _bits(self._ends)
            for other in _bits(together[state])
            if goes_on[other] & follow[self._owner[state]]
        }

    def _bytes(self, states: int) -> int:
        return _union(lead_bytes(self._ranges[state]) for state in _bits(states))

    def _overlapping(self, ranges: Ranges) -> int:
        found = 0
        for state, other in enumerate(self._ranges):
            if any(a <= d and c <= b for a, b in ranges for c, d in other):
                found |= 1 << state
        return found

    def _build(self, node: Node) -> tuple[int, int]:
        """Add a node; the states that read its first characters, and those that read its last ones."""
        match node:
            case Chars(ranges):
                self._ranges.append(ranges)
                self._next.append(0)
                return 1 << len(self._next) - 1, 1 << len(self._next) - 1
            case Ref(name):
                return self._build(self._grammar.rule(name))
            case Choice(items):
                ends = [self._build(item) for item in items]
                return _union(first for first, _ in ends), _union(last for _, last in ends)
            case Repeat(item, low, high) if high and 1 < high <= _MAX_UNROLLED:
                return self._build(Sequence((item,) * low + (Repeat(item, 0, 1),) * (high - low)))
            case Repeat(item, _, high):
                first, last = self._build(item)
                if high != 1:
                    self._link(last, first)
                return first, last
        begins, firsts, lasts = True, 0, 0
        for item in node.items:
            first, last = self._build(item)
            self._link(lasts, first)
            firsts |= first if begins else 0
            empty = self._grammar.can_be_empty(item)
            begins &= empty
            lasts = last | (lasts if empty else 0)
        return firsts, lasts

    def _link(self, before: int, after: int) -> None:
        for state in _bits(before):
            self._next[state] |= after


@lru_cache(maxsize=4096)
def lead_bytes(ranges: Ranges) -> int:
    """The first bytes of these characters in UTF-8, as bits."""
    found = 0
    for low, high in ranges:
        first, last = (chr(code).encode()[0] for code in (low, high))
        found |= (2 << last) - (1 << first)
    return found


def _union(sets: Iterator[int]) -> int:
    found = 0
    for bits in sets:
        found |= bits
    return found


def _bits(bits: int) -> Iterator[int]:
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def _times(low: int, high: int | None) -> str:
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    return short.get((low, high)) or f"{{{low},{'' if high is None else high}}}"


def _escaped(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:x}}}"

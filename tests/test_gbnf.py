"""Grammars in GBNF: what llguidance is given has the language of the grammar, by a recogniser that knows no lexemes."""

from dataclasses import dataclass
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from gguf_runtime.sampling.constraint import GrammarError, gbnf_grammar

NAMES = ["root", "x", "y"]
LETTERS = "abéè"  # the last two begin with the same byte
END = 256


@dataclass(frozen=True)
class Chars:
    chars: str

    def __str__(self):
        return f'"{self.chars}"' if len(self.chars) == 1 else f"[{self.chars}]"

    def ends(self, text, at, ends_of):
        if at >= len(text):
            return {len(text) + 1}  # somewhere beyond the text
        return {at + 1} if text[at] in self.chars else set()


@dataclass(frozen=True)
class Ref:
    name: str

    def __str__(self):
        return self.name

    def ends(self, text, at, ends_of):
        return ends_of(self.name, at)


@dataclass(frozen=True)
class Choice:
    items: tuple

    def __str__(self):
        return f"({' | '.join(map(str, self.items))})"

    def ends(self, text, at, ends_of):
        return set().union(*(item.ends(text, at, ends_of) for item in self.items))


@dataclass(frozen=True)
class Sequence:
    items: tuple

    def __str__(self):
        return f"({' '.join(map(str, self.items))})" if self.items else '""'

    def ends(self, text, at, ends_of):
        found = {at}
        for item in self.items:
            found = set().union(*(item.ends(text, a, ends_of) for a in found))
        return found


@dataclass(frozen=True)
class Repeat:
    item: object
    low: int
    high: int | None

    def __str__(self):
        return f"({self.item}){{{self.low},{'' if self.high is None else self.high}}}"

    def ends(self, text, at, ends_of):
        now, found = {at}, set()
        for i in range(self.low + len(text) + 2 if self.high is None else self.high + 1):
            found |= now if i >= self.low else set()
            now = set().union(*(self.item.ends(text, a, ends_of) for a in now))
        return found


def ends_of_root(rules, text):
    """Where texts of root that begin as the text does may end: within the text, at its end, or beyond."""
    table, grown = {}, True

    def ends_of(name, at):
        return table.setdefault((name, at), set())

    ends_of("root", 0)
    while grown:
        grown = False
        for name, at in list(table):
            size, known = len(table), table[name, at]
            if not known >= (found := rules[name].ends(text, at, ends_of)) or len(table) > size:
                table[name, at] = known | found
                grown = True
    return table["root", 0]


NODES = st.recursive(
    st.one_of(
        st.builds(Chars, st.sampled_from([*LETTERS, "ab", "bé", "bè"])),
        st.builds(Ref, st.sampled_from(NAMES)),
        st.just(Sequence((Chars("a"), Chars("b")))),
    ),
    lambda nodes: st.one_of(
        st.builds(lambda items: Choice(tuple(items)), st.lists(nodes, min_size=2, max_size=3)),
        st.builds(lambda items: Sequence(tuple(items)), st.lists(nodes, max_size=3)),
        st.builds(lambda item, low, n: Repeat(item, low, None if n is None else low + n),
                  nodes, st.integers(0, 2), st.none() | st.integers(0, 2)),
    ),
    max_leaves=6,
)  # fmt: skip


@cache
def byte_tokenizer():
    class Bytes:
        is_tokenizer_wrapper, eos_token_id, bos_token_id, special_token_ids = True, END, None, [END]
        tokens = [*(bytes([byte]) for byte in range(256)), b"<end>"]

        def __call__(self, text):
            return list(text.encode() if isinstance(text, str) else text)

    return LLTokenizer(Bytes(), END + 1, [END])


def check(gbnf, rules, texts):
    matcher = LLMatcher(byte_tokenizer(), gbnf_grammar(gbnf), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    for text in texts:
        ends, ids = ends_of_root(rules, text), [*text.encode(), END]
        n = len(text)
        fits = len(ids) if n in ends else len(ids) - 1 if n + 1 in ends else None
        taken = matcher.validate_tokens(ids)
        assert taken < len(ids) - 1 if fits is None else taken == fits, text


TEXTS = ["".join(letters) for n in range(5) for letters in product(LETTERS, repeat=n)]


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({name: NODES for name in NAMES}), st.lists(st.text("ab", min_size=5, max_size=9)))
def test_the_language_is_that_of_the_grammar(rules, more):
    gbnf = "\n".join(f"{name} ::= {body}" for name, body in rules.items())
    try:
        gbnf_grammar(gbnf)
    except GrammarError as error:
        assert "never ends" in str(error)
        return
    check(gbnf, rules, TEXTS + more)


def accepts(gbnf, text):
    matcher = LLMatcher(byte_tokenizer(), gbnf_grammar(gbnf), log_level=0)
    ids = [*text.encode(), END]
    return matcher.validate_tokens(ids) == len(ids)


@pytest.mark.parametrize(
    "gbnf, fits, others",
    [
        ('root ::= ("true" | [a-z]+) ("," root)?', ["tree,true,t"], ["true,", ",t"]),
        ('root ::= ("true" | [a-z]+) root?', ["tree", "truetr"], ["", "A"]),
        ('root ::= "a" ws e\nws ::= ([ \\n] ws)?\ne ::= "(" e ")" | ws "b"', ["a (\n b)", "ab"], ["a b "]),
        ('root ::= "x"  # one\n\n  | y-1 |\n  "z" (\n"w"\n)\ny-1::= "\\x79\\u00e9" "#"', ["x", "zw", "yé#"], []),
        (r'root ::= [^\n"\]a-c-] . [a-] [\-\x5b\\]{2}', ["d\n-[\\", "\U0010ffffxa-["], ["axa--", "-xa--", "dxb--"]),
        ('root ::= "a"{0} "b"{2} "c"{1,} "d"{0,2}', ["bbcd", "bbccdd"], ["abbc", "bcd", "bbd", "bbcddd"]),
        ('root ::= root "+" n | n\nn ::= [0-9]+ | "(" root ")"', ["1+(22+3)+4", "(1)"], ["1+", "+1"]),
        ('root ::= ""', [""], ["a"]),
    ],
)
def test_the_notation(gbnf, fits, others):
    assert [text for text in (*fits, *others) if accepts(gbnf, text)] == fits


@pytest.mark.parametrize(
    "gbnf, words",
    [
        ("", "line 1, column 1: there is no rule root"),
        ('start ::= "a"', "there is no rule root"),
        ('root ::= "a" |\n  # no\n  b c', "line 3, column 3: there is no rule b"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 1: the rule root is there twice"),
        ('root ::= ("a"\n| "b"', "line 1, column 10: a group is not closed"),
        ('root ::= "a")', "line 1, column 13: nothing is open"),
        ('root ::= "a', "line 1, column 10: a text is not closed"),
        ("root ::= [a-z", "column 10: a class of characters is not closed"),
        ("root ::= [z-a]", "wrong way round"),
        ("root ::= []", "no character fits"),
        (r'root ::= "a\q"', "line 1, column 12: no such escape"),
        (r'root ::= "\U00110000"', "no such escape"),
        ('root ::= "a"\n  + * ? {3', "line 2, column 9: a repetition is"),
        ("root ::= | *", "nothing to repeat"),
        ('root ::= "a"{3,2}', "at least"),
        ('root ::= "a"{9999}', "more than 2000 times"),
        ("root ::= <think>", "tokens are not supported"),
        ('root := "a"', "column 1: a rule begins with its name"),
        ('root ::= "a" := "a"', "column 14: ':' means nothing here"),
        ('root ::= "a" x\nx ::= "b" x', "line 2, column 1: what the rule x stands for never ends"),
        ("root ::= " + "(" * 5000, "nested too deeply"),
    ],
)
def test_errors_say_where(gbnf, words):
    with pytest.raises(GrammarError, match="^the grammar is ") as error:
        gbnf_grammar(gbnf)
    assert words in str(error.value) and "\n" not in str(error.value)

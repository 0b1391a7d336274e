"""How text is cut before BPE, and how merges are done, against slower ways to do the same."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_runtime.tokenizer import pretokenizers
from gguf_runtime.tokenizer.merge import merge
from gguf_runtime.tokenizer.split import Splitter, Thousands

regex = pytest.importorskip("regex", reason="the package regex, which knows Unicode classes, is not installed")

_SPLITTERS = {name: Splitter(pre.expressions) for name, pre in pretokenizers._BY_NAME.items()}
# what tells the expressions apart: contractions, case, digits, scripts, marks, and white space of all kinds
_PARTS = st.sampled_from(
    [
        "'s",
        "'LL",
        "don't",
        "Hello",
        "iPhone",
        "ÀÉî",
        "x",
        "A",
        "12345",
        "7",
        "١٢٣",
        "½",
        "中文",
        "かな",
        "한국어",
        "हिन्दी",
    ]
    + [
        "e\u0301",
        "\u0301",
        "!",
        "...",
        "~",
        "$=",
        "“",
        "€",
        "😀",
        "_a",
        " ",
        "  ",
        "     ",
        "\n",
        "\r\n",
        "\t",
        "\xa0",
        "\u3000",
    ]
)
_TEXTS = st.one_of(st.lists(_PARTS).map("".join), st.text(st.characters(exclude_categories=["Cn", "Cs"])))

#: The expressions that Hugging Face's tokenizer.json files have.
_PUBLISHED = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


@pytest.mark.parametrize("name", _SPLITTERS)
@given(text=_TEXTS)
@settings(max_examples=20, deadline=None)
def test_pieces_are_the_text(name: str, text: str) -> None:
    pieces = _SPLITTERS[name](text)
    assert "".join(pieces) == text and "" not in pieces


@pytest.mark.parametrize("name", _PUBLISHED)
@given(text=_TEXTS)
@settings(max_examples=500, deadline=None)
def test_published_expressions_cut_alike(name: str, text: str) -> None:
    # llama.cpp takes ſ and K, and the separators U+001C to U+001F, for other things than these expressions do
    text = "".join(c for c in text if c not in "ſ\u212a\x1c\x1d\x1e\x1f" and unicodedata.category(c) != "Cn")
    assert _SPLITTERS[name](text) == regex.findall(_PUBLISHED[name], text)


@given(n=st.integers(1, 40), before=st.sampled_from(["", "a", " "]))
def test_thousands(n: int, before: str) -> None:
    pieces = Splitter([Thousands(r"[\p{N}]+")])(before + "1" * n + "b")
    assert pieces[-1] == "b"
    assert [len(piece) for piece in pieces[1:-1]] == [3] * ((n - 1) // 3)
    assert pieces[0] == before + "1" * ((n - 1) % 3 + 1)


def slow_merge(symbols: list[bytes], priorities: dict[bytes, int], glue: bytes) -> list[bytes]:
    """Look at all pairs, merge the best, start again."""
    symbols = list(symbols)
    while True:
        pairs = [(priorities.get(a + glue + b), i) for i, (a, b) in enumerate(zip(symbols, symbols[1:], strict=False))]
        known = [pair for pair in pairs if pair[0] is not None]
        if not known:
            return symbols
        i = min(known)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


@pytest.mark.parametrize("glue", [b"", b" "])
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_merging(glue: bytes, data: st.DataObject) -> None:
    letters = [b"a", b"b", b"c"]
    rng = random.Random(data.draw(st.integers(0, 1000)))
    parts = list(letters)
    priorities: dict[bytes, int] = {}
    for _ in range(rng.randrange(30)):
        left, right = rng.choice(parts), rng.choice(parts)
        parts.append(left + right)
        priorities.setdefault(left + glue + right, rng.randrange(10))  # equal ones too
    symbols = data.draw(st.lists(st.sampled_from(letters), max_size=30))
    assert merge(symbols, priorities, glue) == slow_merge(symbols, priorities, glue)

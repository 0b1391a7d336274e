"""PLaMo 2's tokenizer: the tokens of a text are those whose scores sum to the most, and bytes stand for the rest."""

from __future__ import annotations

import math
from functools import cached_property

from .vocabulary import BYTE, TokenizerError, Vocabulary

_UNKNOWN_COST = 10_000_000  # of a character that is written as bytes; scores are counted in ten-thousandths


class Plamo:
    """Text ↔ tokens; a token is text as it is."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises TokenizerError, GGUFError."""
        self._vocabulary, self._scores = vocabulary, vocabulary.numbers("scores", default=0.0)
        self._bytes = {vocabulary.tokens[id]: id for id in vocabulary.of_type(BYTE)}
        missing = [byte for byte in range(256) if b"<0x%02X>" % byte not in self._bytes]
        if missing:
            raise TokenizerError(f"the vocabulary has no token <0x{missing[0]:02X}> for a byte")

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in which nothing is special: the cheapest way, backwards from its end."""
        text = text.removeprefix("\ufeff")
        n = len(text)
        cost = [0] * (n + 1)  # of all tokens from there on
        first: list[tuple[int, int | None]] = [(1, None)] * n  # how long the first of them is, and its id
        for start in reversed(range(n)):
            ways: list[tuple[int, tuple[int, int | None]]] = [(cost[start + 1] + _UNKNOWN_COST, (1, None))]
            for length in self._lengths:
                found = self._pieces.get(text[start : start + length]) if start + length <= n else None
                if found:
                    ways.insert(-1, (cost[start + length] - found[0], (length, found[1])))
            cost[start], first[start] = min(ways, key=lambda way: way[0])  # the longest of equals, bytes last
        ids: list[int] = []
        start = 0
        while start < n:
            length, id = first[start]
            if id is None:
                ids += [self._bytes[b"<0x%02X>" % byte] for byte in text[start].encode()]
            else:
                ids.append(id)
            start += length
        return ids

    def decode(self, token: bytes) -> bytes:
        """What a token of text stands for."""
        return token

    @cached_property
    def _pieces(self) -> dict[str, tuple[int, int]]:
        """Token → score in ten-thousandths, id."""
        found = {}
        for id, (token, score) in enumerate(zip(self._vocabulary.tokens, self._scores.tolist(), strict=True)):
            if token not in self._bytes and math.isfinite(score):
                rounded = int(score * 1e4 + math.copysign(0.5, score))
                found[token.decode(errors="surrogateescape")] = rounded, id
        return found

    @cached_property
    def _lengths(self) -> list[int]:
        """Of all tokens, the longest first: of equally cheap ways it wins."""
        return sorted({len(piece) for piece in self._pieces}, reverse=True)

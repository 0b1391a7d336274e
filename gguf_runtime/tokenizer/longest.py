"""RWKV's tokenizer: always the longest token that the text goes on with, byte by byte."""

from __future__ import annotations

import re
from functools import cached_property

from .vocabulary import Vocabulary

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_CONTROLS = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


class LongestMatch:
    """Text ↔ tokens; the tokens of files are escaped as in Python."""

    def __init__(self, vocabulary: Vocabulary, unknown_id: int | None) -> None:
        self._vocabulary, self._unknown_id = vocabulary, unknown_id

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in which nothing is special."""
        data, ids, at = text.encode(), [], 0
        while at < len(data):
            for length in self._lengths.get(data[at], ()):
                if (id := self._ids.get(data[at : at + length])) is not None:
                    ids.append(id)
                    at += length
                    break
            else:
                ids += [] if self._unknown_id is None else [self._unknown_id]
                at += 1
        return ids

    def decode(self, token: bytes) -> bytes:
        """What a token of text stands for."""
        return _ESCAPE.sub(_unescaped, token)

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {self.decode(token): id for id, token in enumerate(self._vocabulary.tokens)}

    @cached_property
    def _lengths(self) -> dict[int, list[int]]:
        """Of the tokens that begin with a byte, the longest first."""
        found: dict[int, set[int]] = {}
        for token in self._ids:
            if token:
                found.setdefault(token[0], set()).add(len(token))
        return {first: sorted(lengths, reverse=True) for first, lengths in found.items()}


def _unescaped(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _CONTROLS.get(code, code)

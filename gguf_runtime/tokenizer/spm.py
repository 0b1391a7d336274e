"""SentencePiece's BPE: the tokens' scores say what to merge first, and ▁ is a space."""

from __future__ import annotations

import re
from functools import cached_property

from .merge import merge
from .vocabulary import Vocabulary
from .word_cache import WordCache

_SPACE = "▁"
_WORD = re.compile(f"{_SPACE}*[^{_SPACE}]*")
#: In tokens joined by \0: a space after something else.
_SPACE_INSIDE = re.compile(b"(?<!\0)(?<!%b)%b" % (_SPACE.encode(), _SPACE.encode()))


class SentencePiece:
    """Text ↔ tokens: the characters of a text are joined to tokens, the one of the highest score first."""

    def __init__(self, vocabulary: Vocabulary, unknown_id: int | None) -> None:
        """Raises TokenizerError, GGUFError."""
        self._vocabulary, self._unknown_id = vocabulary, unknown_id
        self._scores = vocabulary.numbers("scores", default=0.0)
        self._words = WordCache(self._encode_word)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in which nothing is special."""
        text = text.replace(" ", _SPACE)
        return self._words.encode(_WORD.findall(text) if self._words_are_apart else [text])

    def decode(self, token: bytes) -> bytes:
        """What a token of text stands for."""
        return token.replace(_SPACE.encode(), b" ")

    @cached_property
    def _words_are_apart(self) -> bool:
        """Whether no token has a space after something else, so that nothing merges across the start of a word."""
        return not _SPACE_INSIDE.search(b"\0" + b"\0".join(self._vocabulary.tokens))

    @cached_property
    def _priorities(self) -> dict[bytes, float]:
        return dict(zip(self._vocabulary.tokens, (-self._scores).tolist(), strict=True))

    def _encode_word(self, word: str) -> list[int]:
        ids = self._vocabulary.ids
        found: list[int] = []
        for symbol in merge([character.encode() for character in word], self._priorities, b""):
            if symbol in ids:
                found.append(ids[symbol])
            else:
                found += [id for byte in symbol if (id := self._byte_id(byte)) is not None]
        return found

    def _byte_id(self, byte: int) -> int | None:
        ids = self._vocabulary.ids
        return ids.get(b"<0x%02X>" % byte, ids.get(bytes([byte]), self._unknown_id))

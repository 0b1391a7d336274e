"""Byte-pair encoding by a list of merges, as GPT-2 has it and most models since."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from ..loader import Value
from .merge import merge
from .pretokenizers import PreTokenizer
from .split import Splitter
from .vocabulary import Vocabulary, array
from .word_cache import WordCache


def _printable_bytes() -> list[str]:
    """The character that tokens have for each byte: its own if that is printable, else one from 256 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (chr(256 + i) for i in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


_CHARACTERS = _printable_bytes()
_SYMBOLS = [character.encode() for character in _CHARACTERS]
_BYTES = {character: bytes([byte]) for byte, character in enumerate(_CHARACTERS)}


class BytePairEncoding:
    """Text ↔ tokens: a text is cut into pieces, a piece into symbols, which the merges join in their order."""

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Value], pre: PreTokenizer) -> None:
        """Raises TokenizerError."""
        self._vocabulary, self._pre = vocabulary, pre
        self._merges = array(metadata, "merges")
        self._split = Splitter(pre.expressions)
        self._writes_spaces = pre.marks_spaces and not pre.byte_level
        self._pieces = WordCache(self._encode_piece)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in which nothing is special."""
        if self._writes_spaces:
            text = text.replace(" ", "▁")
        return self._pieces.encode(self._split(text))

    def decode(self, token: bytes) -> bytes:
        """What a token of text stands for."""
        if not self._pre.byte_level:
            return token.replace("▁".encode(), b" ") if self._writes_spaces else token
        characters = token.decode(errors="surrogateescape")
        return b"".join([_BYTES.get(c) or c.encode(errors="surrogateescape") for c in characters])

    @cached_property
    def _ranks(self) -> dict[bytes, int]:
        """`left right` → its place in the list of merges, the first of equal ones."""
        merges = self._merges.strings()
        return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))

    def _encode_piece(self, piece: str) -> list[int]:
        ids = self._vocabulary.ids
        if self._pre.byte_level:
            symbols = [_SYMBOLS[byte] for byte in piece.encode()]
        else:
            symbols = [character.encode() for character in piece]
        # without byte_level, the merges make nothing of newlines, but there are tokens for several
        if self._pre.ignore_merges or not (self._pre.byte_level or piece.strip("\n")):
            whole = ids.get(b"".join(symbols))
            if whole is not None:
                return [whole]
        found: list[int] = []
        for symbol in merge(symbols, self._ranks, b" "):
            if symbol in ids:
                found.append(ids[symbol])
            elif self._pre.byte_level:
                characters = (c.encode() for c in symbol.decode())
                found += [ids[c] for c in characters if c in ids]
            else:
                found += [ids[byte] for byte in (b"<0x%02X>" % b for b in symbol) if byte in ids]
        return found

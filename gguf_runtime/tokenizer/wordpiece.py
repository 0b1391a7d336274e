"""WordPiece (Schuster & Nakajima 2012), as BERT has it: words are cut into the longest tokens from their start on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from ..loader import Value
from .vocabulary import Vocabulary
from .word_cache import WordCache

#: What stands for a word by itself, as Hugging Face's tokenizers have it (one range begins 256 too late there).
_HAN_RANGES = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B81F), (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)  # fmt: skip
_START = "▁"  # of a word, in the tokens of files; what follows inside of one has none


class WordPiece:
    """Text ↔ tokens. Text loses its control characters, and unless the file says otherwise its case and accents."""

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Value], unknown_id: int | None) -> None:
        self._vocabulary, self._unknown_id = vocabulary, unknown_id
        self._lower = bool(metadata.get("tokenizer.ggml.normalizer.lowercase", True))
        self._strip = bool(metadata.get("tokenizer.ggml.normalizer.strip_accents", self._lower))
        self._cache = WordCache(self._encode_word)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in which nothing is special."""
        return self._cache.encode(_words(text, self._lower, self._strip))

    def decode(self, token: bytes) -> bytes:
        """What a token of text stands for."""
        return token.replace(_START.encode(), b" ")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token.decode(errors="surrogateescape"): id for token, id in self._vocabulary.ids.items()}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=0)

    def _encode_word(self, word: str) -> list[int]:
        """Tokens that make up all of the word, else the unknown one."""
        word = _START + word
        ids, start = [], 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                if (id := self._ids.get(word[start:end])) is not None:
                    ids.append(id)
                    start = end
                    break
            else:
                return [] if self._unknown_id is None else [self._unknown_id]
        return ids


def _words(text: str, lower: bool, strip: bool) -> list[str]:
    """Words between white space; each punctuation mark and each Han character is one by itself."""
    from unicodedata import category, normalize  # 4 ms, and most models do without

    cleaned: list[str] = []
    for character in text:
        if strip:
            character = normalize("NFD", character)[0]  # without accents
        kind = category(character)
        if character.isspace() and kind != "Cc" or character in "\t\n\v\f\r\x85":
            cleaned.append(" ")
        elif (strip and kind[0] == "M") or kind in ("Cc", "Cf", "Cs", "Co") or character == "\ufffd":
            continue
        else:
            alone = kind[0] == "P" or (kind[0] == "S" and character < "\x7f") or _is_han(character)
            character = character.lower()[0] if lower else character
            cleaned.append(f" {character} " if alone else character)
    return [word for word in "".join(cleaned).split(" ") if word]


def _is_han(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _HAN_RANGES)

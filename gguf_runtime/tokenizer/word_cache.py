"""What words, or other pieces of text, were encoded to: a text has few different ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable

_MOST = 1 << 16  # words that are remembered


class WordCache:
    """Encodes words one by one, each once."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._known: dict[str, list[int]] = {}

    def encode(self, words: Iterable[str]) -> list[int]:
        """The tokens of all the words, one after the other."""
        if len(self._known) > _MOST:
            self._known.clear()
        ids: list[int] = []
        for word in words:
            found = self._known.get(word)
            if found is None:
                found = self._known[word] = self._encode(word)
            ids += found
        return ids

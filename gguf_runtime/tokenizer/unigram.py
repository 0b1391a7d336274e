"""Unigram language models (Kudo 2018), as T5 has them: the tokens of a text are those whose scores sum to the most."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from ..loader import GGUFArray, Value
from .vocabulary import NORMAL, UNUSED, USER_DEFINED, TokenizerError, Vocabulary

_SPACE = "▁"
_UNKNOWN_PENALTY = 10.0  # below the least score


class Unigram:
    """Text ↔ tokens. Text is normalised first, by a table in the file."""

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Value], unknown_id: int | None) -> None:
        """Raises TokenizerError, GGUFError."""
        self._unknown_id = unknown_id
        scores, types = vocabulary.numbers("scores", default=0.0).astype(np.float32), vocabulary.types
        self._pieces: dict[str, tuple[float, int]] = {}
        for id in vocabulary.of_type(NORMAL, USER_DEFINED, UNUSED):
            score = 0.0 if types[id] == USER_DEFINED else float(scores[id])
            self._pieces[vocabulary.tokens[id].decode(errors="surrogateescape")] = score, id
        self._lengths = sorted({len(piece) for piece in self._pieces})
        normal = scores[types == NORMAL]
        self._unknown_score = float(normal.min(initial=np.float32(0)) - np.float32(_UNKNOWN_PENALTY))
        self._normaliser = Normaliser(metadata)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in which nothing is special: Viterbi's algorithm, forwards over its characters."""
        text = self._normaliser(text)
        n = len(text)
        best = [0.0] + [-np.inf] * n  # of all tokens up to there
        last: list[tuple[int, int | None]] = [(0, None)] * (n + 1)  # where the last of them begins, and its id
        for start in range(n):
            for length in self._lengths:
                if (end := start + length) > n:
                    break
                found = self._pieces.get(text[start:end])
                if found and best[start] + found[0] > best[end]:
                    best[end], last[end] = best[start] + found[0], (start, found[1])
            if text[start] not in self._pieces and best[start] + self._unknown_score > best[start + 1]:
                best[start + 1], last[start + 1] = best[start] + self._unknown_score, (start, self._unknown_id)
        ids: list[int] = []
        end, before = n, -1
        while end:
            end, id = last[end]
            if id is not None and not (id == before == self._unknown_id):  # neighbours that are unknown are one
                ids.append(id)
            before = -1 if id is None else id
        return ids[::-1]

    def decode(self, token: bytes) -> bytes:
        """What a token of text stands for."""
        return token.replace(_SPACE.encode(), b" ")


class Normaliser:
    """Replaces pieces of text by a table, and spaces by ▁.

    The table, `precompiled_charsmap`, is SentencePiece's: how long a double array is, the array, and zero-terminated
    texts. The array (XCDA, Kanda 2018) is a trie over bytes, in which the child c of a node is at base ^ c.
    """

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        """Raises TokenizerError."""

        def flag(name: str) -> bool:
            return bool(metadata.get(f"tokenizer.ggml.{name}", False))

        self._prefix, self._merge_spaces = flag("add_space_prefix"), flag("remove_extra_whitespaces")
        self._nodes: list[int] = []
        self._texts = b""
        table = metadata.get("tokenizer.ggml.precompiled_charsmap")
        if isinstance(table, GGUFArray) and len(table):
            data = table.numpy().astype(np.uint8).tobytes()
            size = struct.unpack_from("<I", data)[0] if len(data) > 4 else 0
            if not 0 < size < len(data) - 4 or size % 4:
                raise TokenizerError("tokenizer.ggml.precompiled_charsmap is damaged")
            self._nodes = np.frombuffer(data, "<u4", size // 4, 4).tolist()
            self._texts = data[4 + size :]

    def __call__(self, text: str) -> str:
        out: list[str] = []
        in_word, needs_space = False, self._prefix
        for character in self._replaced(text):
            if character == " ":
                in_word = False
                if not self._merge_spaces:
                    out.append(_SPACE)
                continue
            if not in_word and (self._merge_spaces or needs_space):
                out.append(_SPACE)
                needs_space = False
            in_word = True
            out.append(character)
        return "".join(out)

    def _replaced(self, text: str) -> str:
        if not self._nodes:
            return text
        data, made, at = text.encode(), [], 0
        while at < len(data):
            length, replacement = self._longest(data, at)
            if not length:
                length = 1 + (data[at] >= 0xC0) + (data[at] >= 0xE0) + (data[at] >= 0xF0)
                replacement = data[at : at + length]
            made.append(replacement)
            at += length
        return b"".join(made).decode(errors="replace")

    def _longest(self, data: bytes, at: int) -> tuple[int, bytes]:
        """How long the longest piece of the table is that the data have there (0: none), and what replaces it."""
        length, text_at = 0, 0
        node = _base(self._node(0))
        for i in range(at, len(data)):
            byte = data[i]
            node ^= byte
            packed = self._node(node)
            if not byte or packed & 0x800000FF != byte:
                break
            node ^= _base(packed)
            if packed >> 8 & 1:
                length, text_at = i + 1 - at, self._node(node) & 0x7FFFFFFF
        if text_at >= len(self._texts):
            raise TokenizerError("tokenizer.ggml.precompiled_charsmap is damaged")
        return length, self._texts[text_at : self._texts.find(b"\0", text_at)]

    def _node(self, index: int) -> int:
        if index >= len(self._nodes):
            raise TokenizerError("tokenizer.ggml.precompiled_charsmap is damaged")
        return self._nodes[index]


def _base(packed: int) -> int:
    return packed >> 10 << ((packed & 512) >> 6)

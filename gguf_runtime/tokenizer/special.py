"""Finding special tokens in text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..loader import Value
from .vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

#: No character of a text, having no bytes in UTF-8. What has one inside is no special token; it is then taken away.
BREAK = "\udfff"

_WHITE = " \t\n\v\f\r"


class _Special(NamedTuple):
    """lstrip, rstrip: the token takes the white space before, after it."""

    id: int
    text: str
    lstrip: bool
    rstrip: bool


class SpecialTokens:
    """Parts a text at its special tokens."""

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Value]) -> None:
        lstrip, rstrip = _strips(vocabulary, metadata)
        ids = vocabulary.of_type(CONTROL, UNKNOWN, USER_DEFINED)
        ids.sort(key=lambda id: -len(vocabulary.tokens[id]))
        self._all = [
            _Special(id, vocabulary.tokens[id].decode(errors="surrogateescape"), id in lstrip, id in rstrip)
            for id in ids
        ]
        self._user_defined = [s for s in self._all if vocabulary.types[s.id] == USER_DEFINED]

    def part(self, text: str, parse_special: bool) -> list[str | int]:
        """The text as pieces of it and ids of special tokens; without parse_special, only of user-defined ones.

        Longer tokens are looked for before shorter ones, all over the text, as llama.cpp does.
        """
        fragments: list[str | int] = [text] if text else []
        for special in self._all if parse_special else self._user_defined:
            if special.text in text:
                fragments = [part for fragment in fragments for part in _cut(fragment, special)]
        return fragments


def _cut(fragment: str | int, special: _Special) -> list[str | int]:
    if isinstance(fragment, int):
        return [fragment]
    parts: list[str | int] = []
    texts = fragment.split(special.text)
    for i, text in enumerate(texts):
        if special.rstrip and i > 0:
            text = text.lstrip(_WHITE)
        if special.lstrip and i < len(texts) - 1:
            text = text.rstrip(_WHITE)
        if text:
            parts.append(text)
        parts.append(special.id)
    return parts[:-1]


def _strips(vocabulary: Vocabulary, metadata: Mapping[str, Value]) -> tuple[set[int], set[int]]:
    """Ids that take white space before, after them. Files do not say; llama.cpp knows some models by name."""
    name = str(metadata.get("general.name", "")).lower()
    pre = str(metadata.get("tokenizer.ggml.pre", ""))
    ids = vocabulary.ids
    if any(jina in pre for jina in ("jina-v2-de", "jina-v2-es", "jina-v2-code")):
        return {ids[token] for token in (b"<mask>",) if token in ids}, set()
    if "phi-3" in name or "phi3" in name:
        special = {*vocabulary.of_type(CONTROL, UNKNOWN, USER_DEFINED), ids.get(b"</s>", -1)}
        return set(), special - {ids.get(token, -1) for token in (b"<unk>", b"<s>", b"<|endoftext|>")}
    if "modern-bert" in name:
        return {ids[token] for token in (b"[MASK]",) if token in ids}, set()
    return set(), set()

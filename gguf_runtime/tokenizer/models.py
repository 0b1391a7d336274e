"""The tokenizers that `tokenizer.ggml.model` may name, and what a text begins and ends with; facts from llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from ..loader import Value
from . import pretokenizers
from .bpe import BytePairEncoding
from .longest import LongestMatch
from .plamo import Plamo
from .spm import SentencePiece
from .unigram import Unigram
from .vocabulary import TokenizerError, Vocabulary
from .wordpiece import WordPiece


class TokenizerKind(NamedTuple):
    """defaults: special tokens where the file names none.

    adds_bos, adds_end: whether encoding adds those, unless the file says otherwise; obeys_bos, obeys_end: whether it
    may. end: the name of the token at the end. adds_sep: whether a separator is between two texts, unless the file says
    otherwise. pads: whether a text is taken to begin with a space, unless the file
    says otherwise (None: there is no such thing); pads_itself: the model of tokens sees to that.
    """

    defaults: Mapping[str, int | None]
    adds_bos: bool = False
    adds_end: bool = False
    obeys_bos: bool = True
    obeys_end: bool = True
    end: str = "eos"
    adds_sep: bool = False
    pads: bool | None = None
    pads_itself: bool = False


_LLAMA = {"bos": 1, "eos": 2, "unknown": 0}
_BERT = {"bos": 101, "seperator": 102, "unknown": 100}  # spelt as the key is
_KINDS = {
    "llama": TokenizerKind(_LLAMA, adds_bos=True, pads=True),
    "bert": TokenizerKind(_BERT, True, True, False, False, end="seperator", adds_sep=True, pads=True, pads_itself=True),
    "t5": TokenizerKind({"eos": 1, "unknown": 2}, adds_end=True, pads=False, pads_itself=True),
    "rwkv": TokenizerKind({}, obeys_bos=False, obeys_end=False),
    "plamo2": TokenizerKind(_LLAMA, obeys_bos=False, obeys_end=False),
}
_PRE_TOKENIZED = ("gpt2", "gemma4")


class TokenModel(Protocol):
    """Text ↔ tokens."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in which nothing is special."""
        ...

    def decode(self, token: bytes) -> bytes:
        """What a token of text stands for."""
        ...


def find(metadata: Mapping[str, Value]) -> tuple[TokenizerKind, Vocabulary, TokenModel]:
    """What a file's metadata describe. Raises TokenizerError, GGUFError."""
    name = metadata.get("tokenizer.ggml.model")
    if not isinstance(name, str) or (name not in _KINDS and name not in _PRE_TOKENIZED):
        found = "missing" if name is None else f"{name!r}, which is not supported"
        raise TokenizerError(f"tokenizer.ggml.model is {found}; ggrun knows {', '.join([*_PRE_TOKENIZED, *_KINDS])}")
    if name in _PRE_TOKENIZED:
        pre = pretokenizers.find(name if name == "gemma4" else metadata.get("tokenizer.ggml.pre"))
        defaults = {} if name == "gemma4" else {"bos": pre.bos_id, "eos": 11}
        kind = TokenizerKind(defaults, pre.add_bos or pre.needs_bos, obeys_bos=not pre.needs_bos, adds_sep=pre.add_sep)
        vocabulary = Vocabulary(metadata, kind.defaults)
        return kind, vocabulary, BytePairEncoding(vocabulary, metadata, pre)
    kind = _KINDS[name]
    vocabulary = Vocabulary(metadata, kind.defaults)
    unknown = vocabulary.special_id("unknown")
    if name == "llama":
        return kind, vocabulary, SentencePiece(vocabulary, unknown)
    if name == "bert":
        return kind, vocabulary, WordPiece(vocabulary, metadata, unknown)
    if name == "t5":
        return kind, vocabulary, Unigram(vocabulary, metadata, unknown)
    return kind, vocabulary, LongestMatch(vocabulary, unknown) if name == "rwkv" else Plamo(vocabulary)

"""The tokenizer of a model: text → token ids → text, by the rules of llama.cpp."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

from ..loader import Value
from . import models
from .special import BREAK, SpecialTokens
from .stream import StreamDecoder
from .vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, TokenizerError


class Tokenizer:
    """n_vocab: number of tokens; tokens: by id, as the file has them; bos_id, eos_id: begin and end of a text;
    eog_ids: any of them ends generation; special_ids: tokens that are no text; control_ids: those that only a template
    writes; user_defined_ids: those that are found in any text; add_bos, add_eos: whether encoding adds those;
    fim_ids: tokens for filling in, by their names in keys (fim_pre, fim_suf, fim_mid …), as far as there are such;
    pair_frame: what comes before, between and after two texts that are judged together."""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Value]) -> Tokenizer:
        """The tokenizer that a GGUF file's metadata describe. Raises TokenizerError, GGUFError."""
        return cls(metadata)

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        kind, self._vocabulary, self._model = models.find(metadata)
        vocabulary = self._vocabulary
        self._special = SpecialTokens(vocabulary, metadata)

        def flag(name: str, default: bool) -> bool:
            return bool(metadata.get(f"tokenizer.ggml.{name}", default))

        self.n_vocab, self.tokens = len(vocabulary), vocabulary.tokens
        self.bos_id, self.eos_id = vocabulary.special_id("bos"), vocabulary.special_id("eos")
        self._end_id = vocabulary.special_id(kind.end)
        self.eog_ids, self.fim_ids = vocabulary.eog_ids, vocabulary.fim_ids
        self.special_ids = frozenset(vocabulary.of_type(CONTROL, UNKNOWN))
        self.control_ids = self.special_ids | vocabulary.shown_ids
        self.user_defined_ids = frozenset(vocabulary.of_type(USER_DEFINED)) - vocabulary.shown_ids
        self._hidden_ids = self.special_ids - vocabulary.shown_ids
        self.add_bos = flag("add_bos_token", kind.adds_bos) if kind.obeys_bos else kind.adds_bos
        self.add_eos = flag("add_eos_token", kind.adds_end) if kind.obeys_end else kind.adds_end
        sep_id = vocabulary.special_id("seperator")
        ends, separates = flag("add_eos_token", kind.adds_end and kind.obeys_end), flag("add_sep_token", kind.adds_sep)
        begin = _present(self.add_bos, self.bos_id)
        end = _present(ends, sep_id if self.eos_id is None else self.eos_id)
        self.pair_frame = begin, [*end, *_present(separates, sep_id)], end
        # SentencePiece takes each text, and each part of one after a control token, to begin with a space;
        # a user-defined token is part of the text
        self._is_padded = kind.pads is not None and flag("add_space_prefix", kind.pads)
        self._pads = self._is_padded and not kind.pads_itself

    def encode(
        self, text: str, add_special: bool = True, parse_special: bool = False, *, begins: bool = True
    ) -> list[int]:
        """Token ids of a text.

        add_special: with BOS and EOS, where the model has them added. parse_special: control tokens that are
        written out in the text, as a chat template writes them, become these tokens; not so where a BREAK is in them.
        begins: false for what goes on with a text, so that SentencePiece puts no space before it.
        """
        ids: list[int] = []
        if add_special and self.add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        for fragment in self._special.part(text, parse_special):
            if isinstance(fragment, int):
                ids.append(fragment)
                begins = fragment in self.special_ids
                continue
            if fragment := _valid(fragment.replace(BREAK, "")):
                ids += self._model.encode(" " + fragment if self._pads and begins else fragment)
            begins = False
        if add_special and self.add_eos and self._end_id is not None:
            ids.append(self._end_id)
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of what a model is to go on with: special tokens in the text are understood, and it gets a BOS
        token where the model wants one and the text has none."""
        ids = self.encode(text, add_special=False, parse_special=True)
        wants_bos = self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]
        return [self.bos_id, *ids] if wants_bos and self.bos_id is not None else ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of tokens, without the space that encoding added before it; for parts of one see decoder().

        skip_special leaves out control tokens. Bytes that are not UTF-8 become U+FFFD.
        """
        pieces = [self.token_bytes(id) for id in ids if not (skip_special and id in self.special_ids)]
        if pieces and self._is_padded:
            pieces[0] = pieces[0].removeprefix(b" ")
        return b"".join(pieces).decode(errors="replace")

    def decoder(self, special: bool | Collection[int] = True) -> StreamDecoder:
        """A decoder of tokens as they are generated. special: also of control tokens that are no part of an answer, or
        of some of them."""
        hidden = frozenset() if special is True else self._hidden_ids.difference(special or ())
        return StreamDecoder(self.token_bytes, hidden)

    def token_bytes(self, id: int) -> bytes:
        """What a token stands for: bytes of text, or the text of a special token. Raises TokenizerError."""
        token = self._token(id)
        token_type = self._vocabulary.types[id]
        if token_type == NORMAL:
            return self._model.decode(token)
        if token_type == BYTE:
            return _byte(token)
        return b"" if token_type == UNUSED else token

    @cached_property
    def all_bytes(self) -> list[bytes]:
        """`token_bytes` of every token, by id."""
        return [self.token_bytes(id) for id in range(self.n_vocab)]

    def piece(self, id: int) -> str:
        """A token as the vocabulary has it. Raises TokenizerError."""
        return self._token(id).decode(errors="replace")

    def _token(self, id: int) -> bytes:
        if not 0 <= id < self.n_vocab:
            raise TokenizerError(f"token {id} is not in the vocabulary, which has {self.n_vocab}")
        return self._vocabulary.tokens[id]


def _present(wanted: bool, id: int | None) -> list[int]:
    return [id] if wanted and id is not None else []


def _byte(token: bytes) -> bytes:
    """<0xXX> → that byte."""
    try:
        return bytes.fromhex(token[3:5].decode("ascii"))
    except ValueError:
        return token


def _valid(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which have no bytes in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

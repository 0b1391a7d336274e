"""The tokens of a file, their types, and the special ones: which begin, end, or separate text.

What is done about special tokens follows llama.cpp's src/llama-vocab.cpp, which finds many of them by their text,
because files often do not name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from ..loader import GGUFArray, GGUFError, Value

#: Types of tokens in tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_END_OF_GENERATION = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
)  # fmt: skip
#: Of tokens that mark up code to be filled in: the key that names the token → the texts that it is known by.
_FILL_IN = {
    "fim_pre": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
                "<|code_prefix|>", "<|prefix|>"),
    "fim_suf": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
                "<|code_suffix|>", "<|suffix|>"),
    "fim_mid": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
                "<|code_middle|>", "<|middle|>"),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}  # fmt: skip
_OLDER_NAMES = {"fim_pre": "prefix", "fim_suf": "suffix", "fim_mid": "middle"}  # in keys
_ENDING_FILL_INS = ("fim_pad", "fim_rep", "fim_sep")  # these end generation too
_PARTS_OF_ANSWER = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")  # in gpt-oss
_CHANNEL = ("<|channel>", "<channel|>")  # in Gemma 4
#: How models begin and end their thoughts.
THOUGHTS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
}


class TokenizerError(GGUFError):
    """The file has no tokenizer, a damaged one, or one of a kind that is not supported."""


class Vocabulary:
    """tokens: bytes by id; types: u8[n_vocab], corrected where the text says otherwise; eog_ids: end generation;
    fim_ids: the tokens that mark up code to be filled in, by the names of _FILL_IN, as far as there are such;
    shown_ids: control tokens that are parts of an answer, as they tell its parts apart."""

    def __init__(self, metadata: Mapping[str, Value], defaults: Mapping[str, int | None]) -> None:
        """defaults: ids of special tokens that keys do not name. Raises TokenizerError, GGUFError."""
        self._metadata, self._defaults = metadata, defaults
        self.tokens = array(metadata, "tokens").strings()
        if b"" in self.tokens:
            self.tokens = [token or b"[EMPTY_%d]" % i for i, token in enumerate(self.tokens)]
        types = self.numbers("token_type", default=NORMAL)
        self.types = np.where((types >= NORMAL) & (types <= BYTE), types, UNUSED).astype(np.uint8)
        self.fim_ids: dict[str, int] = {}
        self.eog_ids = self._find_special()

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Token → id, the last of equal ones."""
        return dict(zip(self.tokens, range(len(self.tokens)), strict=True))

    def of_type(self, *types: int) -> list[int]:
        """The ids of the tokens of these types."""
        ids: list[int] = np.flatnonzero(np.isin(self.types, types)).tolist()
        return ids

    def numbers(self, name: str, default: float) -> np.ndarray:
        """The array tokenizer.ggml.NAME, a number for each token, the default where there is no such array.

        Raises TokenizerError, GGUFError.
        """
        if f"tokenizer.ggml.{name}" not in self._metadata:
            return np.full(len(self), default)
        numbers = array(self._metadata, name).numpy()
        if len(numbers) < len(self):
            raise TokenizerError(f"tokenizer.ggml.{name} has {len(numbers)} entries for {len(self)} tokens")
        return numbers[: len(self)]

    def special_id(self, name: str) -> int | None:
        """The id that tokenizer.ggml.NAME_token_id gives, or the default; None for one that is no token."""
        for found in (self._metadata.get(f"tokenizer.ggml.{name}_token_id"), self._defaults.get(name)):
            if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < len(self):
                return found
        return None

    def _find_special(self) -> frozenset[int]:
        """Correct the types of special tokens, and collect those that end generation."""
        control = self._known(*_END_OF_GENERATION)
        ending = set(control.values())
        for name, texts in _FILL_IN.items():
            found = self.special_id(name)
            if found is None:
                found = self.special_id(_OLDER_NAMES.get(name, name))
            if found is None:
                for text, found in self._known(*texts).items():
                    control[text] = found
                    break
            if found is not None:
                self.fim_ids[name] = found
                if name in _ENDING_FILL_INS:
                    ending.add(found)
        self.types[list(control.values())] = CONTROL
        parts = self._known(*_PARTS_OF_ANSWER, *_CHANNEL, *THOUGHTS, *THOUGHTS.values())
        shown = {i for i in parts.values() if self.types[i] == CONTROL}
        self.types[list(self._known(*_PARTS_OF_ANSWER).values())] = USER_DEFINED
        ending |= {found for name in ("eos", "eot", "eom") if (found := self.special_id(name)) is not None}

        # a part of an answer ends with <|end|> where there are tokens for the end of all of it
        names = {self.tokens[i].decode(errors="replace"): i for i in ending}
        calls = "<|call|>" in names or "<|calls|>" in names
        if "<|end|>" in names and calls and ("<|return|>" in names or "<|flush|>" in names):
            ending.remove(names["<|end|>"])
            self.types[names["<|end|>"]] = USER_DEFINED
            shown.add(names["<|end|>"])
        if "</s>" in names and "<|tool_response>" in names:
            ending.remove(names["</s>"])
            self.types[names["</s>"]] = NORMAL
        self.shown_ids = frozenset(shown)
        return frozenset(ending)

    def _known(self, *texts: str) -> dict[str, int]:
        """Those of these texts that are tokens, with their ids."""
        return {text: self.ids[text.encode()] for text in texts if text.encode() in self.ids}


def array(metadata: Mapping[str, Value], name: str) -> GGUFArray:
    """The array tokenizer.ggml.NAME. Raises TokenizerError."""
    found = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, GGUFArray):
        raise TokenizerError(f"tokenizer.ggml.{name} is {'missing' if found is None else 'not an array'}")
    return found

"""Answers that follow a grammar: JSON of a schema, GBNF, or a regular expression.

llguidance keeps track of what may come next, in Rust; it costs about a twentieth of a millisecond a token. Here it gets
our vocabulary, and its masks become candidates.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from ..tokenizer import Tokenizer
from . import gbnf
from .candidates import Candidates
from .lexemes import lark
from .params import SamplingParams
from .schema import Unsupported, prepared

# some white space, as models write it, but never without end
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ ]|\n[ \t]{0,20}", "coerce_one_of": True}
# Parts of the vocabulary: where all of one may come next, its tokens are allowed at once and not one by one. Counted
# letters ([a-z ]{500}) are a new state at each token, so nothing else saves work there; then blanks and JSON's texts.
_SLICES = [
    r"[a-z]{1,16}",
    r"[a-z ]{1,16}",
    r"[A-Za-z ]{1,16}",
    r"[ \n\r\t]+",
    *(rf'[^"\\\x00-\x1F\x7F]{n}' for n in ("{1,30}", "+")),
]


class GrammarError(ValueError):
    """A grammar that cannot be used."""


class SchemaWarning(UserWarning):
    """Something in a JSON schema that answers are not held to."""


class Constraint:
    """Keeps the candidates with which the answer can go on to fit a grammar."""

    def __init__(self, grammar: str, tokenizer: Tokenizer, form: str = "the grammar") -> None:
        """grammar: in llguidance's own notation; form: what it was made of, for messages. Raises GrammarError."""
        self._form = form
        if not tokenizer.eog_ids:
            raise GrammarError(f"the model has no token that ends an answer, which {form} needs")
        self._matcher = LLMatcher(_vocabulary(tokenizer), grammar, log_level=0)
        self._n_vocab = tokenizer.n_vocab
        self._mask = np.zeros(-(-self._n_vocab // 32), np.int32)
        self._allowed: np.ndarray | None = None  # which tokens may come next, once that is known
        self._check()

    def __call__(self, candidates: Candidates) -> Candidates:
        """Those of all tokens that may come next. Raises GrammarError where the grammar became too complex."""
        if self._allowed is None:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            self._check()
            self._allowed = np.unpackbits(self._mask.view(np.uint8), count=self._n_vocab, bitorder="little").view(bool)
        n = int(np.count_nonzero(self._allowed))
        if not n:
            raise GrammarError(f"no token can go on with what {self._form} wants")
        if n < self._n_vocab // 8:
            return candidates.those(np.flatnonzero(self._allowed))
        return candidates.allowing(self._allowed)

    @property
    def is_met(self) -> bool:
        """Whether the answer so far is whole."""
        return bool(self._matcher.is_accepting() or self._matcher.is_stopped())

    def takes(self, tokens: list[int]) -> bool:
        """Whether the answer may go on with these."""
        return self._matcher.is_stopped() or self._matcher.validate_tokens(tokens) == len(tokens)

    def accept(self, token: int) -> None:
        """Note that the answer goes on with this token."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._allowed = None
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"{self._form} does not work: {_in_a_line(self._matcher.get_error())}")


def constrain(params: SamplingParams, tokenizer: Tokenizer | None) -> Constraint:
    """What the parameters ask for. Raises GrammarError."""
    if tokenizer is None:
        raise GrammarError("a grammar needs a tokenizer")
    return Constraint(grammar_of(params), tokenizer, form_of(params))


def grammar_of(params: SamplingParams) -> str:
    """The grammar that the parameters ask for, in llguidance's own notation. Raises GrammarError."""
    try:
        if params.json_schema is not None:
            return json_grammar(params.json_schema)
        if params.grammar is not None:
            return gbnf_grammar(params.grammar)
        if params.lark is not None:
            return LLMatcher.grammar_from_lark(params.lark)
        return LLMatcher.grammar_from_regex(params.regex or "")
    except UnicodeEncodeError:  # a lone surrogate, which stands for a byte where a command line is not UTF-8
        raise GrammarError(f"{form_of(params)} is no text in UTF-8") from None


def form_of(params: SamplingParams) -> str:
    """The same in words, as people who gave it know it."""
    if params.json_schema is not None:
        return "the JSON schema"
    return "the grammar" if params.regex is None else "the regular expression"


def check(params: SamplingParams) -> None:
    """Raises GrammarError for what no model could follow."""
    if error := LLMatcher.validate_grammar(grammar_of(params)):
        raise GrammarError(f"{form_of(params)} does not work: {_in_a_line(error)}")


def json_grammar(schema: str | Mapping[str, Any] | bool) -> str:
    """JSON that a schema describes, for llguidance. Raises GrammarError; warns of what answers are not held to."""
    try:
        text = _prepared(json.loads(schema) if isinstance(schema, str) else schema)
        grammar = LLMatcher.grammar_from_json_schema(text, defaults=_JSON_OPTIONS)
        for note in LLMatcher.validate_grammar_with_warnings(grammar)[1] if '"oneOf"' in text else ():
            if note.startswith("oneOf"):
                _warn("it cannot tell the cases of a oneOf apart: an answer may fit more than one")
        return grammar
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused(error) from error


def json_text(schema: Any) -> str:
    """The schema as a part of a grammar in llguidance's notation, behind %json. Raises GrammarError; warns."""
    try:
        return json.dumps({"x-guidance": _JSON_OPTIONS, **json.loads(_prepared(schema))})
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused(error) from error


def _prepared(schema: Any) -> str:
    text = json.dumps(prepared(schema, _warn))
    json.loads(text, parse_int=_exact)
    return text


def _refused(error: Exception) -> GrammarError:
    if isinstance(error, Unsupported):
        return GrammarError(f"the JSON schema cannot be used: {error}")
    return GrammarError(f"the JSON schema is not valid: {_in_a_line(str(error))}")


def _warn(note: str) -> None:
    warnings.warn(f"the JSON schema: {note}", SchemaWarning, stacklevel=2)


def _exact(digits: str) -> None:
    """llguidance keeps numbers as floats."""
    if abs(int(digits)) > 1 << 53:
        raise ValueError(f"{digits} is beyond 2^53, where whole numbers are no longer exact")


def gbnf_grammar(text: str) -> str:
    """The language of a grammar in llama.cpp's notation, GBNF, for llguidance. Raises GrammarError."""
    try:
        return LLMatcher.grammar_from_lark(lark(gbnf.parse(text)))
    except RecursionError as error:
        raise GrammarError("the grammar is nested too deeply") from error
    except ValueError as error:
        raise GrammarError(f"the grammar is not valid GBNF: {error}") from error


def _in_a_line(text: str) -> str:
    """What llguidance says of an error, without what it tells of its own state."""
    said = " ".join(text.split("<state>")[0].split())
    return {"NoExtensionBias": "no text can begin as it wants"}.get(said, said or "no reason given")


class _Bridge:
    """A tokenizer, as llguidance wants to see one."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eog_ids)
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted({*tokenizer.special_ids, *tokenizer.eog_ids})
        self.tokens = tokenizer.all_bytes

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, begins=False)  # it is what the grammar wants next


@lru_cache(maxsize=2)
def _vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    return LLTokenizer(_Bridge(tokenizer), tokenizer.n_vocab, sorted(tokenizer.eog_ids), _SLICES)  # type: ignore[arg-type]

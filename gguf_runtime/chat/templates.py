"""The chat templates of a model: which there are, and which a conversation is written with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..loader import Value
from ..tokenizer import Tokenizer

if TYPE_CHECKING:  # Jinja is loaded once a conversation is rendered
    from .marks import Rendered
    from .parser import AnswerParser
    from .template import ChatTemplate, Message
    from .tool_choice import ToolChoice
    from .tool_format import AnswerFormat

_KEY = "tokenizer.chat_template"
_WITH_TOOLS = f"{_KEY}.tool_use"


class AnswerReading(NamedTuple):
    """How an answer is made and read where there may be calls of tools.

    parser: push(text) and flush() give its events (answer.py). grammar: what the answer has to fit, for
    SamplingParams.lark; None where it is free. shown_ids: control tokens that the parser has to see, for `special` of
    LLM.stream. stop: texts that end an answer of this model, for `stop` of LLM.stream.
    """

    parser: AnswerParser
    grammar: str | None
    shown_ids: frozenset[int]
    stop: tuple[str, ...] = ()

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of LLM.stream, with what the reader needs."""
        stop = options.get("stop") or ()
        own = {"lark": self.grammar} if self.grammar else {}
        shown = self.shown_ids if options.get("special") is not True else True
        stops = (*((stop,) if isinstance(stop, str) else stop), *self.stop)
        return {**options, **own, "special": shown, "stop": stops}


class ChatTemplates:
    """Renders conversations; templates are compiled when they are first needed."""

    def __init__(self, metadata: Mapping[str, Value], tokenizer: Tokenizer, chosen: str | None = None) -> None:
        """chosen: a template to use instead of the file's: a name of chat/builtin.py, a file, or Jinja; a wrong one is
        told at once. Raises ChatError, OSError."""
        self._metadata, self._tokenizer = metadata, tokenizer
        values = ((key, metadata.get(key)) for key in (_KEY, _WITH_TOOLS))
        self._sources = {key: text for key, text in values if isinstance(text, str) and text.strip()}
        self._compiled: dict[str, ChatTemplate] = {}
        self._shown_ids: dict[AnswerFormat, frozenset[int]] = {}
        self._whose = "the model's" if chosen is None else "the given"
        if chosen is not None:
            from .builtin import find

            self._sources = {_KEY: find(chosen)}
            self._template(_KEY)

    @property
    def exist(self) -> bool:
        return _KEY in self._sources

    def render(
        self, messages: Sequence[Message], *, tools: Iterable[Mapping[str, Any]] | None = None, **variables: Any
    ) -> Rendered:
        """A conversation as the text that the template makes of it, with marks in what messages say.

        Raises ChatError where the model has no template, or the template refuses the conversation.
        """
        return self._template(self._key(tools)).converse(messages, tools=tools, **variables)

    def reader(
        self,
        prompt: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel: bool = True,
    ) -> AnswerReading:
        """How the answer to a prompt is read, one reader for each answer.

        prompt: the rendered conversation, whose end may have begun thoughts, or the answer, already. tools: in OpenAI's
        form, `{"type": "function", "function": {"name", "description", "parameters", "strict"}}`. tool_choice: "auto",
        "none" (nothing is read as a call), "required", or one of OpenAI's objects: `{"type": "function", "function":
        {"name": …}}`, `{"type": "allowed_tools", "allowed_tools": {"mode", "tools"}}`. "required" and a named function
        are enforced by the grammar; so is the schema of a call where tool_choice is "auto" and a function has
        `"strict": true`. parallel: whether there may be more than one call.

        Raises ChatError where there is no template, ValueError for a tool_choice that there is not or a tool that has
        no name, GrammarError for parameters that no grammar can express.
        """
        from .parser import AnswerParser
        from .tool_choice import choose

        choice = choose(tools, tool_choice)
        form = self._template(self._key(tools)).answer_format
        parser = AnswerParser(form, choice.schemas, several=parallel, prompt=prompt)
        grammar = self._grammar(form, choice, parallel, parser.closing) if choice.must or choice.strict else None
        return AnswerReading(parser, grammar, self._shown(form), form.stop)

    def _grammar(self, form: AnswerFormat, choice: ToolChoice, parallel: bool, closing: str) -> str:
        from .tool_grammar import tool_grammar

        known = self._tokenizer.special_ids | self._tokenizer.eog_ids
        special = {self._tokenizer.piece(i): i for i in self._shown(form) & known}
        return tool_grammar(
            form,
            choice,
            parallel=parallel,
            closing=closing,
            special=special,
            ends=map(self._tokenizer.piece, self._tokenizer.eog_ids),
        )

    def _shown(self, form: AnswerFormat) -> frozenset[int]:
        """The control tokens that answers of this form have."""
        if form not in self._shown_ids:
            whole = "\0".join(form.texts)
            self._shown_ids[form] = frozenset(i for text, i in self._pieces.items() if text in whole)
        return self._shown_ids[form]

    @cached_property
    def _pieces(self) -> dict[str, int]:
        """The tokens that are no text, by what they are written as."""
        tokenizer = self._tokenizer
        return {tokenizer.piece(i): i for i in sorted(tokenizer.control_ids | tokenizer.eog_ids)}

    def _key(self, tools: object) -> str:
        return _WITH_TOOLS if tools and _WITH_TOOLS in self._sources else _KEY

    def mark(self, text: str) -> str:
        """An answer as it is marked where it is a message."""
        return self._template(_KEY).marks_of_answers(text)

    def _template(self, key: str) -> ChatTemplate:
        if key not in self._compiled:
            self._compiled[key] = self._compile(key)
        return self._compiled[key]

    def _compile(self, key: str) -> ChatTemplate:
        from .template import ChatError, ChatTemplate

        if key not in self._sources:
            raise ChatError("the model has no chat template: name one with --chat-template, or give it plain text")
        tokenizer = self._tokenizer
        ids = {
            "bos_token": tokenizer.bos_id,
            "eos_token": tokenizer.eos_id,
            "unk_token": self._metadata.get("tokenizer.ggml.unknown_token_id"),
            "pad_token": self._metadata.get("tokenizer.ggml.padding_token_id"),
        }
        known = {name: i for name, i in ids.items() if isinstance(i, int) and 0 <= i < tokenizer.n_vocab}
        return ChatTemplate(
            self._sources[key],
            {name: tokenizer.piece(i) for name, i in known.items()},
            control=[tokenizer.piece(i) for i in tokenizer.control_ids],
            writable=[tokenizer.piece(i) for i in tokenizer.user_defined_ids],
            whose=self._whose,
        )

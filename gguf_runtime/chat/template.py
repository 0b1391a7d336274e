"""Chat templates: Jinja, with what Hugging Face transformers' `apply_chat_template` adds to it.

A template comes with the model and is not to be trusted, so it runs in a sandbox, and not for long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.meta import find_undeclared_variables

from ..tokenizer import THOUGHTS
from .limits import limited
from .marks import Marks, Rendered, unmarked
from .messages import ChatError, Message, Reader
from .sandbox import Sandbox
from .whole_messages import whole

if TYPE_CHECKING:  # what is there for tools is loaded once there are some
    from .told_tools import Shown
    from .tool_format import AnswerFormat

__all__ = ["ChatError", "ChatTemplate", "Message"]

_THOUGHTS = {*THOUGHTS, *THOUGHTS.values()}


class TemplateFailure(ChatError):
    """A template that refuses or fails on a conversation."""


class ChatTemplate:
    """A compiled template. Raises ChatError where the source is not valid."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        *,
        control: Iterable[str] = (),
        writable: Iterable[str] = (),
        whose: str = "the model's",
    ) -> None:
        """`special_tokens`: text by name, such as bos_token; templates use them as variables.

        control: texts of tokens that messages are not to become; marks (marks.py) are put into these. writable: texts
        of other tokens, that anybody may write. In the assistant's messages, tokens that begin and end thoughts are
        left as the model wrote them. whose: for messages.
        """
        self._whose = whose
        self._special_tokens = dict(special_tokens)
        self._readers: dict[bool, Reader] = {}
        sandbox = Sandbox(lambda value: self.marks(value))
        try:
            with limited():
                tree = sandbox.parse(source)
                texts = (constant.value for constant in tree.find_all(nodes.Const))
                self._constants = frozenset(text for text in texts if isinstance(text, str))
                self._texts = self._constants | {data.data for data in tree.find_all(nodes.TemplateData)}
                self._unset = find_undeclared_variables(tree)
                self._template = sandbox.from_string(tree)
        except (TemplateError, RecursionError, SyntaxError, ValueError, MemoryError) as error:
            raise ChatError(f"{whose} chat template is not valid: {error}") from error
        control, whole = set(control), {*self._constants, *writable}
        self.marks, self.marks_of_answers = Marks(control, whole), Marks(control - _THOUGHTS, whole)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Iterable[Mapping[str, Any]] | None = None,
        documents: Iterable[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> Rendered:
        """The conversation as text, up to where the assistant goes on. `variables` are the template's own.

        Messages are put in the form that the template takes (messages.py). Raises ChatError when the template refuses
        the conversation (`raise_exception`) or fails on it.
        """
        tools = None if tools is None else list(tools)
        scope = {
            **self._special_tokens,
            **variables,
            "tools": None if tools is None else self.marks(tools),
            "documents": None if documents is None else self.marks(list(documents)),
            "add_generation_prompt": add_generation_prompt,
        }
        with limited():
            if bool(tools) not in self._readers:
                self._readers[bool(tools)] = Reader(lambda asked: self._shown(asked, scope), self._constants)
            try:
                adapted = self._readers[bool(tools)].adapt(messages)
                return Rendered(self._run([self._marked(message) for message in adapted], scope))
            except ChatError:
                raise
            except Exception as error:  # a template can raise whatever Python can
                reason = str(error) or type(error).__name__
                said = f"{self._whose} chat template does not take this conversation: {reason}"
                raise TemplateFailure(said) from error

    def converse(
        self, messages: Sequence[Message], *, tools: Iterable[Mapping[str, Any]] | None = None, **variables: Any
    ) -> Rendered:
        """The same, for all templates to show tools, calls and results: what one does not show is told in words, tools
        are under the name that it reads, and have the descriptions that it takes for granted."""
        from .told_tools import completed, told

        tools = None if tools is None else list(tools)
        messages = [whole(message) for message in messages]
        if tools or any(_has_tools(message) for message in messages):
            messages = told(messages, tools or (), self.answer_format.calls[0], self._shows, self.marks)
        variables = {**self._other_names(tools), **variables}
        try:
            return self.render(messages, tools=tools, **variables)
        except TemplateFailure:
            if not tools or (full := completed(tools)) == tools:
                raise
            return self.render(messages, tools=full, **variables)

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """How answers are written to which this template goes on from (derive.py)."""
        from .derive import derive

        with limited():  # all renderings have the time of one
            return derive(self._tried, self._texts)

    @cached_property
    def _shows(self) -> Shown:
        """What it shows of tools, by what it makes of some."""
        from .derive import shown
        from .told_tools import Shown

        if self.answer_format.shows_calls:
            return Shown("tools" in self._unset or "functions" in self._unset, calls=True, results=True)
        with limited():
            return shown(self._tried)

    def _tried(self, messages: Sequence[Message], begin: bool) -> str:
        """The text of messages and some tools, without or with the beginning of an answer; "" where that fails."""
        from .derive import TOOLS

        known = {**self._special_tokens, **self._other_names(TOOLS)}
        scope = {**known, "tools": TOOLS, "add_generation_prompt": begin}
        try:
            with limited():
                reader = self._readers.setdefault(
                    True, Reader(lambda asked: self._shown(asked, scope), self._constants)
                )
                return unmarked(self._run(reader.adapt(messages), scope))
        except Exception:  # a template can raise whatever Python can
            return ""

    def _other_names(self, tools: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
        """What Firefunction's template reads instead of tools."""
        if "functions" not in self._unset or "tools" in self._unset:
            return {}
        described = json.dumps(tools or [], indent=4, ensure_ascii=False)
        return {"functions": self.marks(described), "datetime": datetime.now(UTC).strftime("%b %d %Y %H:%M:%S GMT")}

    def _marked(self, message: Message) -> Any:
        return (self.marks_of_answers if message.get("role") == "assistant" else self.marks)(message)

    def _shown(self, messages: Sequence[Message], scope: Mapping[str, Any]) -> str:
        """What the template makes of messages that ask what it takes; "" where it does not take them."""
        try:
            return self._run(messages, scope, strict=True)
        except Exception:
            return ""

    def _run(self, messages: Sequence[Message], scope: Mapping[str, Any], strict: bool = False) -> str:
        variables = {**scope, "messages": messages}
        with limited(variables, strict):
            return self._template.render(variables)


def _has_tools(message: Message) -> bool:
    """Whether a message is a result, or has calls."""
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    return isinstance(message, Mapping) and (message.get("role") == "tool" or (isinstance(calls, list) and bool(calls)))

"""Chat templates: Jinja, with what Hugging Face transformers' `apply_chat_template` adds to it.

A template comes with the model and is not to be trusted, so it runs in a sandbox, and not for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from .limits import limited
from .sandbox import Sandbox

Message = Mapping[str, Any]
_REASONING = ("reasoning_content", "thinking", "reasoning")  # what people call it, the best name first


class ChatError(Exception):
    """A template that cannot be compiled, or that refuses or fails on a conversation."""


class ChatTemplate:
    """A compiled template. Raises ChatError where the source is not valid."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: text by name, such as bos_token; templates use them as variables."""
        self._special_tokens = dict(special_tokens)
        try:
            with limited():
                self._template = Sandbox().from_string(source)
        except (TemplateError, RecursionError, SyntaxError, ValueError, MemoryError) as error:
            raise ChatError(f"the model's chat template is not valid: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Iterable[Mapping[str, Any]] | None = None,
        documents: Iterable[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> str:
        """The conversation as text, up to where the assistant goes on. `variables` are the template's own.

        Raises ChatError when the template refuses the conversation (`raise_exception`) or fails on it.
        """
        scope = {
            **self._special_tokens,
            **variables,
            "messages": [_with_reasoning(message) for message in messages],
            "tools": None if tools is None else list(tools),
            "documents": None if documents is None else list(documents),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with limited(scope):
                return self._template.render(scope)
        except Exception as error:  # a template can raise whatever Python can
            reason = str(error) or type(error).__name__
            raise ChatError(f"the model's chat template does not take this conversation: {reason}") from error


def _with_reasoning(message: Message) -> dict[str, Any]:
    """The message with its reasoning under both names that templates read."""
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if reasoning is None:
        return dict(message)
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}

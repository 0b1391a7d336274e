"""The text side of a model: its file's metadata, tokenizer and chat template, in the HTTP process."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from ..chat.marks import Rendered
from ..chat.templates import ChatTemplates
from ..loader import GGUFArray, open_gguf
from ..tokenizer import THOUGHTS, Tokenizer, TokenizerError, infill_prompt
from .vocabulary import AnswerRequest, Failure

_SIGNS_OF_THOUGHT = (*THOUGHTS, *THOUGHTS.values(), "enable_thinking", "reasoning", "<|channel>thought")


class ModelTexts:
    """Renders and tokenises for one model. Methods may run in any thread."""

    def __init__(self, path: str, chat_template: str | None = None, *, reads_vocabulary: bool = True) -> None:
        """reads_vocabulary: false where only what the file says of the model is wanted.

        Raises OSError, GGUFError, TokenizerError, ChatError.
        """
        self.path = path
        self._file = open_gguf(path)  # is mapped: what nobody reads takes no memory
        self.metadata = self._file.metadata
        tensors = self._file.tensors.values()
        self.n_bytes = sum(tensor.n_bytes for tensor in tensors)
        self.n_params = sum(math.prod(tensor.shape) for tensor in tensors)
        self.template = chat_template or str(self.metadata.get("tokenizer.chat_template", ""))
        self._fills_in = "tokenizer.ggml.fim_mid_token_id" in self.metadata
        if reads_vocabulary:
            self.tokenizer = Tokenizer.from_metadata(self.metadata)
            self.templates = ChatTemplates(self.metadata, self.tokenizer, chat_template)
            self._fills_in = {"fim_pre", "fim_suf", "fim_mid"} <= set(self.tokenizer.fim_ids)

    @cached_property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def special(self, name: str) -> str:
        """A special token's text: bos, eos; empty where there is none."""
        id, tokens = (self.metadata.get(f"tokenizer.ggml.{key}") for key in (f"{name}_token_id", "tokens"))
        if isinstance(id, int) and isinstance(tokens, GGUFArray) and 0 <= id < len(tokens):
            return str(tokens[id])
        return ""

    def hparam(self, name: str) -> Any:
        """A key of the metadata that belongs to the architecture, or None."""
        return self.metadata.get(f"{self.architecture}.{name}")

    @property
    def thinks(self) -> bool:
        """Whether the template knows of thoughts."""
        return any(sign in self.template for sign in _SIGNS_OF_THOUGHT)

    @property
    def capabilities(self) -> list[str]:
        """What the model can do, by Ollama's names: those that say how to pool embeddings are made for that."""
        embeds = self.hparam("pooling_type") is not None or self.hparam("attention.causal") is False
        found = {
            "embedding": embeds,
            "completion": not embeds,
            "tools": "tools" in self.template,
            "insert": self._fills_in,
            "thinking": self.thinks,
        }
        return [name for name, can in found.items() if can]

    def render(self, request: AnswerRequest) -> Rendered:
        """The text that the chat template makes of a request's messages. Raises Failure."""
        from ..chat.template import ChatError

        messages = list(request.messages or ())
        started = messages.pop() if request.continues else None
        try:
            text = self.templates.render(messages, tools=request.tools or None, **request.template)
            if started is None:
                return text
            return Rendered(text.marked + self.templates.mark(_text(started.get("content"))))
        except ChatError as error:
            raise Failure("invalid", str(error), field="messages") from error

    def prompt(self, request: AnswerRequest) -> tuple[str, list[int]]:
        """A request's prompt as text, as far as it is one, and token ids. Raises Failure."""
        if request.messages is not None:
            text = self.render(request)
            if request.before:
                ids = self.tokenizer.encode(text.marked, add_special=False, parse_special=True)
                return text, [*self.mixed([*request.before]), *ids]
            return text, self.tokenizer.encode_prompt(text.marked)
        prompt = request.prompt or ""
        if request.suffix is not None:
            if not isinstance(prompt, str):
                raise Failure("invalid", "with a suffix, the prompt must be text and not token ids", field="prompt")
            return "", self.infill(prompt, request.suffix, sys.maxsize)  # one that is too long is told, not cut
        if isinstance(prompt, str):
            return prompt, self.tokenizer.encode_prompt(prompt)
        return "", self.mixed(prompt)

    def infill(
        self, prefix: str, suffix: str, n_most: int, *, begun: str = "", files: Iterable[tuple[str, str]] = ()
    ) -> list[int]:
        """A prompt of up to so many tokens for what is between prefix and suffix (tokenizer.infill_prompt).

        Raises Failure where the model cannot fill in.
        """
        try:
            return infill_prompt(self.tokenizer, prefix, suffix, begun=begun, files=files, n_most=n_most)
        except TokenizerError as error:
            raise Failure("invalid", str(error), field="suffix") from error

    def mixed(self, prompt: Iterable[int | str], field: str = "prompt") -> list[int]:
        """Token ids of texts and token ids, mixed. Raises Failure for an id that there is not."""
        ids: list[int] = []
        for i, part in enumerate(prompt):
            if isinstance(part, int):
                ids.append(part)
            elif i == 0:
                ids += self.tokenizer.encode_prompt(part)
            else:
                ids += self.tokenizer.encode(part, add_special=False, parse_special=True)
        self.check(ids, field)
        return ids

    def check(self, ids: Iterable[int], field: str) -> None:
        """Raises Failure where a token id is not the model's."""
        n_vocab = self.tokenizer.n_vocab
        if bad := [id for id in ids if not 0 <= id < n_vocab]:
            raise Failure(
                "invalid",
                f"token {bad[0]} is not in the model's vocabulary of {n_vocab}: "
                "token ids are to be the model's own, and not those of another tokenizer such as cl100k",
                field=field,
            )


def _text(content: Any) -> str:
    """The text of a message."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    return content or ""

"""A conversation with a model, of which each answer computes only what is new."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .chat.answer import Answer, Event
from .chat.marks import Rendered
from .chat.parser import AnswerParser
from .chat.reasoning import PLAIN, THINKING, Span, spans
from .chat.templates import AnswerReading
from .generation import Generation
from .llm import LLM
from .text import common


class ConversationError(Exception):
    """There is no message, or no answer, to do that to."""


class Conversation:
    """Messages, and what the model has computed of them.

    messages: dicts of role and content, as chat templates want them; an answer's reasoning is under
    reasoning_content, for the template to send back or not. They may be changed between answers: what the changed
    conversation has in common with the last one, from its beginning, is not computed again.

    shift: in a full context, forget the oldest exchanges. split: tell the reasoning from the answer. tools,
    tool_choice, parallel: what the model may call, as `ChatTemplates.reader` has it; an answer's calls are under
    tool_calls, in OpenAI's form, and `returned` answers them. template: variables for the chat template.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        system: str = "",
        shift: bool = False,
        split: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel: bool = True,
        **template: Any,
    ) -> None:
        self.llm, self.shift, self.split, self.template = llm, shift, split, template
        self.tools, self.tool_choice, self.parallel = tools, tool_choice, parallel
        self.messages: list[dict[str, Any]] = []
        self.system = system
        self.n_forgotten = 0  # messages at the beginning that the last prompt had to leave out
        self._written = _Written(llm)

    @property
    def system(self) -> str:
        """The system message; empty for none."""
        return self.messages[0]["content"] if self._n_system else ""

    @system.setter
    def system(self, text: str) -> None:
        self.messages[: self._n_system] = [{"role": "system", "content": text}] if text else []

    @property
    def _n_system(self) -> int:
        return int(bool(self.messages) and self.messages[0]["role"] == "system")

    def ask(self, text: str, **options: Any) -> Reply:
        """The answer to a message. Options are those of `LLM.stream`.

        Raises ContextFull where the conversation does not fit, ChatError where the template refuses it; it is then as
        it was before.
        """
        return self._told([{"role": "user", "content": text}], options)

    def returned(self, results: Sequence[str], **options: Any) -> Reply:
        """The answer to what the last answer's calls have returned, in their order. Raises ConversationError where that
        has not as many calls, and as `ask` does."""
        calls = self.messages[-1].get("tool_calls", ()) if self.messages else ()
        if not calls or len(calls) != len(results):
            raise ConversationError(f"the last answer has {len(calls)} calls, and here are {len(results)} results")
        messages = [
            {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": result}
            for call, result in zip(calls, results, strict=True)
        ]
        return self._told(messages, options)

    def _told(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> Reply:
        """The answer to more messages, which are taken back where there is none."""
        n = len(self.messages)
        self.messages += messages
        try:
            return self._answer(options)
        except BaseException:  # Ctrl-C too
            del self.messages[n:]
            raise

    def again(self, **options: Any) -> Reply:
        """Another answer to the last message. Raises ConversationError where there is none, and as `ask` does."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise ConversationError("there is no answer yet")
        last = self.messages.pop()
        try:
            return self._answer(options)
        except BaseException:
            self.messages.append(last)
            raise

    def undo(self) -> str:
        """Take back the last message and its answer; gives the message. Raises ConversationError for none."""
        users = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not users:
            raise ConversationError("there is nothing to undo")
        text = self.messages[users[-1]]["content"]
        del self.messages[users[-1] :]
        return str(text)

    def clear(self) -> None:
        """Forget all but the system message."""
        del self.messages[self._n_system :]

    @property
    def n_tokens(self) -> int:
        """Tokens of the context that the last prompt and its answer take."""
        return self._written.n_context

    def _answer(self, options: dict[str, Any]) -> Reply:
        text, tokens = self._prompt()
        reading = self._reading(text)
        generation = self.llm.stream(tokens, context_shift=self.shift, **reading.options(options))
        answer = Answer()
        self.messages.append(answer.message)
        return Reply(generation, reading, answer, self._written, text.marked)

    def _reading(self, prompt: Rendered) -> AnswerReading:
        if self.tools:
            templates = self.llm.templates
            return templates.reader(prompt, self.tools, tool_choice=self.tool_choice, parallel=self.parallel)
        return AnswerReading(AnswerParser(THINKING if self.split else PLAIN, prompt=prompt), None, frozenset())

    def _prompt(self) -> tuple[Rendered, list[int]]:
        """The conversation as text and tokens; with `shift`, less the oldest exchanges that leave too little room."""
        messages, self.n_forgotten = self.messages, 0
        while True:
            text = self.llm.render(messages, tools=self.tools or None, **self.template)
            tokens = self._written.encode(text.marked)
            if not self.shift or len(tokens) <= self.llm.engine.n_ctx * 3 // 4:
                return text, tokens
            start = self._n_system
            users = [i for i in range(start + 1, len(messages)) if messages[i]["role"] == "user"]
            if not users:
                return text, tokens
            self.n_forgotten += users[0] - start
            messages = messages[:start] + messages[users[0] :]


class Reply(Iterator[Span]):
    """An answer in the making: iterate for its spans of reasoning and answer. The conversation has what came so far,
    calls too.

    generation: tells what it cost.
    """

    def __init__(
        self, generation: Generation, reading: AnswerReading, answer: Answer, written: _Written, text: str
    ) -> None:
        self.generation = generation
        self._reading, self._answer = reading, answer
        self._spans = self._run(written, text)

    def __next__(self) -> Span:
        return next(self._spans)

    def close(self) -> None:
        """Stop here. What came so far stays in the conversation."""
        self._spans.close()
        self.generation.close()

    def _run(self, written: _Written, prompt: str) -> Generator[Span]:
        said = ""
        try:
            parser = self._reading.parser
            for piece in self.generation:
                said += piece
                yield from self._kept(parser.push(piece))
                if parser.done:
                    self.generation.close()
            yield from self._kept(parser.flush())
        finally:
            written.note(prompt, said, self.generation, self._reading.shown_ids)

    def _kept(self, events: list[Event]) -> list[Span]:
        for event in events:
            self._answer.add(event)
        return spans(events)


class _Written:
    """The text of the last prompt and answer, marked, and the answer, which has their tokens.

    The model may have spelled its answer with other tokens than the tokenizer would. A conversation that goes on from
    a prompt or an answer takes these, and only what comes after is encoded. That is safe where it begins with a
    special token, since no token reaches across one.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._text = ""
        self._answer: Generation | None = None
        self._ends: list[tuple[int, int]] = []  # of prompts and answers: characters, tokens

    @property
    def n_context(self) -> int:
        """Tokens of the context that it takes."""
        return self._answer.sequence.n_context if self._answer else 0

    def note(self, prompt: str, said: str, answer: Generation, shown_ids: Collection[int]) -> None:
        """This prompt got this answer, in which these control tokens are shown."""
        ids = answer.sequence.text.ids
        same = common(self._ids, ids[: answer.n_prompt])
        self._ends = [end for end in self._ends if prompt.startswith(self._text[: end[0]]) and end[1] <= same]
        self._text, self._answer = prompt, answer
        self._ends.append((len(prompt), answer.n_prompt))
        decoder = self._llm.tokenizer.decoder(shown_ids)
        if "".join(map(decoder.push, answer.tokens)) == said:  # and not cut at a stop string, or within a character
            self._text = prompt + self._llm.templates.mark(said)
            self._ends.append((len(self._text), len(ids)))

    def encode(self, text: str) -> list[int]:
        """Tokens of a conversation's text."""
        tokenizer = self._llm.tokenizer
        for n_characters, n_tokens in reversed(self._ends):
            if text.startswith(self._text[:n_characters]):
                rest = tokenizer.encode(text[n_characters:], add_special=False, parse_special=True)
                if not rest or rest[0] in tokenizer.special_ids:
                    return [*self._ids[:n_tokens].tolist(), *rest]
        return tokenizer.encode_prompt(text)

    @property
    def _ids(self) -> np.ndarray:
        return self._answer.sequence.text.ids if self._answer else np.zeros(0, np.int32)

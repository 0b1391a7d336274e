"""What a model thinks before it answers, told apart from the answer while both are being made."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..text import overlap
from ..tokenizer import THOUGHTS

#: How models begin and end their reasoning.
TAGS = {
    **THOUGHTS,
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|channel|>analysis<|message|>": "<|end|><|start|>assistant<|channel|>final<|message|>",  # gpt-oss
}


class Span(NamedTuple):
    kind: Literal["reasoning", "answer"]
    text: str


class ReasoningSplitter:
    """Sorts text, as it comes, into reasoning and answer. Newlines beside the tags belong to neither.

    An answer without reasoning is passed on as it is.
    """

    def __init__(self, prompt: str, *, split: bool = True) -> None:
        """prompt: the rendered conversation, whose end may have begun the reasoning already. Without `split`, all is
        answer, tags too."""
        end = prompt.rstrip() if split else ""
        self._close = next((close for tag, close in TAGS.items() if end.endswith(tag)), "")
        self._undecided = split and not self._close  # no reasoning so far, and no answer
        self._after_tag = bool(self._close)
        self._held = ""

    @property
    def closing(self) -> str:
        """What ends the reasoning, while that goes on; else nothing."""
        return self._close

    def push(self, text: str) -> list[Span]:
        """What is certain now; what may be part of a tag is held back."""
        self._held += text
        if self._undecided:
            self._decide()
        spans = []
        if self._close and (at := self._held.find(self._close)) >= 0:
            spans.append(Span("reasoning", self._take(at)))
            self._held, self._close, self._after_tag = self._held[len(self._close) :], "", True
        if not self._undecided:
            kind: Literal["reasoning", "answer"] = "reasoning" if self._close else "answer"
            spans.append(Span(kind, self._take(len(self._held) - overlap(self._held, self._close))))
        return [span for span in spans if span.text]

    def flush(self) -> list[Span]:
        """What was held back, at the end."""
        span = Span("reasoning" if self._close else "answer", self._take(len(self._held)))
        return [span] if span.text else []

    def _decide(self) -> None:
        """Whether the text begins with a tag, as soon as that can be told."""
        start = self._held.lstrip()
        for tag, close in TAGS.items():
            if start.startswith(tag):
                self._close, self._held, self._after_tag = close, start[len(tag) :], True
        self._undecided = not self._close and any(tag.startswith(start) for tag in TAGS)

    def _take(self, n: int) -> str:
        """The first n characters of what is held, without newlines that follow a tag."""
        text, self._held = self._held[:n], self._held[n:]
        if self._after_tag:
            text = text.lstrip("\n")
            self._after_tag = not text
        return text

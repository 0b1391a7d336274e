"""Where an answer goes, and in which form: text, one JSON object, or JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from ..files import replacing
from . import process

if TYPE_CHECKING:
    from ..generation import Generation, Piece
    from ..llm import LLM


class Write(Protocol):
    def __call__(self, text: str) -> None: ...


class Thoughts:
    """A model's reasoning, told apart from its answer. kept: whether the answer has it too."""

    def __init__(self, prompt: str, kept: bool) -> None:
        from ..chat.parser import AnswerParser
        from ..chat.reasoning import THINKING, spans

        self.reasoning = self.answer = ""
        self._parser, self._spans, self._kept = AnswerParser(THINKING, prompt=prompt), spans, kept

    def sift(self, text: str, *, last: bool = False) -> str:
        """What of the text to show; last: what was held back too."""
        spans = self._spans(self._parser.push(text) + (self._parser.flush() if last else []))
        answer = "".join(span.text for span in spans if span.kind == "answer")
        self.reasoning += "".join(span.text for span in spans if span.kind == "reasoning")
        shown = text if self._kept else answer
        self.answer += shown
        return shown


@contextlib.contextmanager
def open_output(path: str | None, form: str | None, thoughts: Thoughts | None) -> Iterator[TextOutput]:
    """An output to standard output, or to a file that appears once it is whole; form: None, "json" or "jsonl"."""
    kind = {"json": JsonOutput, "jsonl": JsonLinesOutput, None: TextOutput}[form]
    if path is None:
        yield kind(_to_terminal if sys.stdout.isatty() else _to_stdout, thoughts)
    else:
        with replacing(path) as file:
            yield kind(lambda text: file.write(text.encode("utf-8", "replace")), thoughts)  # type: ignore[arg-type]


class TextOutput:
    """The answer's text, as it comes; without the reasoning where `thoughts` keep it."""

    def __init__(self, write: Write, thoughts: Thoughts | None) -> None:
        self._write, self._thoughts = write, thoughts
        self._last = ""

    def prompt(self, text: str) -> None:
        """What the model reads."""
        self._write(text)

    def piece(self, piece: Piece) -> None:
        if text := self._sifted(piece.text):
            self._write(text)
            self._last = text

    def _sifted(self, text: str, *, last: bool = False) -> str:
        return self._thoughts.sift(text, last=last) if self._thoughts else text

    def end(self, generation: Generation, llm: LLM, load_seconds: float) -> None:
        if rest := self._sifted("", last=True):
            self._write(rest)
            self._last = rest
        if self._write is _to_terminal and not self._last.endswith("\n"):
            self._write("\n")


class JsonOutput(TextOutput):
    """One object at the end."""

    def __init__(self, write: Write, thoughts: Thoughts | None) -> None:
        super().__init__(write, thoughts)
        self._shown: dict[str, Any] = {}

    def prompt(self, text: str) -> None:
        self._shown = {"prompt": text}

    def piece(self, piece: Piece) -> None:
        self._sifted(piece.text)

    def end(self, generation: Generation, llm: LLM, load_seconds: float) -> None:
        self._sifted("", last=True)
        self._line(
            {
                **self._shown,
                "text": self._thoughts.answer if self._thoughts else generation.text,
                **self._reasoning(),
                "tokens": generation.tokens,
                **_facts(generation, llm, load_seconds),
            }
        )

    def _reasoning(self) -> dict[str, str]:
        return {"reasoning": self._thoughts.reasoning} if self._thoughts else {}

    def _line(self, value: dict[str, Any]) -> None:
        self._write(json.dumps(value, ensure_ascii=False) + "\n")


class JsonLinesOutput(JsonOutput):
    """An object for each token, with the text that it makes certain; one without token for text that was held back;
    at the end one that tells the rest."""

    def piece(self, piece: Piece) -> None:
        self._line({"token": piece.token, "text": self._sifted(piece.text)})

    def end(self, generation: Generation, llm: LLM, load_seconds: float) -> None:
        if rest := self._sifted("", last=True):
            self._line({"token": None, "text": rest})
        self._line({**self._shown, **self._reasoning(), **_facts(generation, llm, load_seconds)})


def _facts(generation: Generation, llm: LLM, load_seconds: float) -> dict[str, Any]:
    """What there is to know about an answer beside its text. Times in seconds."""
    g = generation
    return {
        "stop_reason": g.stop_reason,
        "model": llm.name,
        "seed": g.sampler.seed,
        "n_prompt": g.n_prompt,
        "n_prompt_cached": g.n_reused,
        "n_tokens": g.n_tokens,
        "n_guessed": g.n_guessed,
        "n_accepted": g.n_accepted,
        "timings": {
            "load": round(load_seconds, 4),
            "prompt": round(g.prompt_seconds, 4),
            "generation": round(g.step_seconds, 4),
            "tokens_per_second": round(g.n_decoded / g.step_seconds, 2) if g.step_seconds else None,
        },
    }


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _to_terminal(text: str) -> None:
    _to_stdout(process.harmless(text))

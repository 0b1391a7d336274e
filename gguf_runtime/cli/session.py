"""A conversation at the terminal, and how what comes of it is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from ..chat.reasoning import Span
from ..conversation import Conversation, Reply
from ..generation import Generation
from ..llm import LLM
from . import process


class Chat:
    """A conversation and how it is held: what the slash commands change."""

    def __init__(self, conversation: Conversation, options: dict[str, Any], verbose: bool) -> None:
        """options: those of `LLM.stream`."""
        self.conversation, self.options, self.verbose = conversation, options, verbose
        self.draft = ""  # what the next input begins with
        self.markdown = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.leaving = False
        self.agrees: Callable[[str], bool] = lambda question: False  # asks the person; nobody is there in a pipe

    @property
    def llm(self) -> LLM:
        return self.conversation.llm

    def answer(self, ask: Callable[[], Reply]) -> None:
        """Show an answer as it is made. Ctrl-C stops it; what has come stays in the conversation."""
        view = _Pretty() if self.markdown else _Plain()
        with process.Stop() as stop, process.resumed(view.resume):
            try:
                reply = ask()
            except Exception as error:
                note(f"ggrun: {process.describe(error)}")
                return
            try:
                for span in reply:
                    stop.gentle = True
                    view.show(span)
                    if stop.wished:
                        break
            except KeyboardInterrupt:
                stop.wished = True
            finally:
                reply.close()
                view.finish()
        self._remark(reply, stopped=stop.wished)

    def _remark(self, reply: Reply, stopped: bool) -> None:
        """What there is to say about an answer, beside it."""
        generation, conversation = reply.generation, self.conversation
        if generation.sampler.lacks_form:
            note("cut off: the answer does not have the form that was asked for")
        if stopped:
            note("stopped; /regen answers anew")
        elif generation.stop_reason == "context":
            note(f"the context of {self.llm.engine.n_ctx} tokens is full: -c makes it larger, --context-shift forgets")
        elif generation.stop_reason == "length":
            note(f"stopped after {generation.n_tokens} tokens, as asked with -n")
        if conversation.n_forgotten:
            note(f"the context is full: the model no longer sees the first {conversation.n_forgotten} messages")
        if self.verbose:
            note(summary(generation))
        if self.markdown:
            print()


def summary(generation: Generation) -> str:
    """What an answer cost, in a line."""
    g = generation
    kept = f" and {g.n_reused} kept" if g.n_reused else ""
    parts = [f"prompt of {g.n_prompt - g.n_reused}{kept}: {g.prompt_seconds:.2f} s"]
    if g.step_seconds:
        parts.append(f"{g.n_decoded / g.step_seconds:.1f} t/s")
    if g.n_guessed:
        parts.append(f"{g.n_accepted} of {g.n_guessed} guesses right")
    return " · ".join(parts)


def note(text: str) -> None:
    """A remark of ours: dimmed, and not on standard output unless that is the terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(f"{process.dimmed(text)}\n")
        sys.stdout.flush()
    else:
        print(text, file=sys.stderr, flush=True)


class _Plain:
    """Answers as they come, for a file or a pipe; without the reasoning."""

    def __init__(self) -> None:
        self._last = "\n"

    def show(self, span: Span) -> None:
        if span.kind == "answer":
            sys.stdout.write(span.text)
            sys.stdout.flush()
            self._last = span.text

    def resume(self) -> None:
        """The process was stopped, and goes on."""

    def finish(self) -> None:
        if not self._last.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()


class _Pretty:
    """Answers as Markdown, after the reasoning, which is dimmed."""

    def __init__(self) -> None:
        from .markdown import MarkdownStream

        self._answer = MarkdownStream()
        self._thinking = False
        print()

    def show(self, span: Span) -> None:
        if span.kind == "reasoning":
            self._thinking = True
            sys.stdout.write(process.dimmed(span.text))
            sys.stdout.flush()
        else:
            self._end_of_thinking()
            self._answer.push(span.text)

    def resume(self) -> None:
        self._answer.lose_place()

    def finish(self) -> None:
        self._end_of_thinking()
        self._answer.finish()

    def _end_of_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            sys.stdout.write("\n\n")

"""`ggrun --prompts`: every line of a JSONL file answered, in order, many at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from .. import arguments
from ..chat.messages import checked
from ..files import without_mark
from . import process
from .answers import FOR_ONE_ANSWER, Dialogue, sort_options
from .loading import load
from .progress import progress

if TYPE_CHECKING:
    from ..generation import Generation
    from ..llm import LLM

_FIELDS = ("prompt", "messages", "system", "id", "max_tokens", "stop", "temperature", "seed")


def answer_all(prompts: str, model: str | None, dialogue: Dialogue, raw: bool, options: dict[str, Any]) -> None:
    """Answer every line; with -o, go on from where an earlier run of the same was cut off."""
    if dialogue.reasoning.startswith("deepseek"):
        raise click.UsageError("--prompts leaves reasoning in the answers: --reasoning-format none")
    output = options.pop("output")
    for option, shown in FOR_ONE_ANSWER.items():
        if options.pop(option):
            raise click.UsageError(f"{shown} is for a single answer: --prompts writes JSON lines of its own")
    verbose = options.pop("verbose")
    defaults, engine = sort_options(options)
    source = without_mark(sys.stdin.buffer.read() if prompts == "-" else Path(prompts).read_bytes())
    tasks = [Task(line, number, dialogue) for number, line in enumerate(source.splitlines(), 1) if line.strip()]
    n_failed, n_tokens, start = 0, 0, perf_counter()
    with _open_results(output, source, [model, dialogue, raw, defaults]) as (n_done, write):
        if n_done:
            click.echo(f"ggrun: {n_done} of {len(tasks)} answers are there already", err=True)
        if n_done < len(tasks):
            llm = load(model, **engine, chat_template=dialogue.template)
            with progress(len(tasks), n_done) as advance:
                for n, answer in enumerate(Answers(llm, tasks[n_done:], raw, defaults), n_done + 1):
                    write(answer)
                    advance(n)
                    n_failed += "error" in answer
                    n_tokens += answer.get("n_tokens", 0)
    if verbose:
        seconds = perf_counter() - start
        click.echo(f"{n_tokens} tokens in {seconds:.1f} s, {n_tokens / seconds:.1f} a second", err=True)
    if n_failed:
        raise click.ClickException(f"{n_failed} of {len(tasks)} prompts failed; their lines say why")


class Task:
    """A line of the prompts: {"prompt": TEXT} or {"messages": [...]}, or just TEXT; settings of its own beside it."""

    def __init__(self, line: bytes, number: int, dialogue: Dialogue) -> None:
        """What is wrong with a line is told where it is to be answered: others have an answer all the same."""
        self.id: Any = number
        self.prompt: str | None = None
        self.messages: list[dict[str, Any]] = []  # where there is no prompt
        self.system = dialogue.system
        self.dialogue, self.options = dialogue, dict[str, Any]()
        self.wrong: ValueError | None = None
        try:
            self._read(line)
        except (ValueError, RecursionError) as error:
            self.wrong = ValueError(f"line {number} of the prompts: {error}")

    def _read(self, line: bytes) -> None:
        """Raises ValueError, RecursionError."""
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ValueError(f"this is not JSON: {error}") from None
        value = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise ValueError('this is neither text nor an object with "prompt" or "messages"')
        self.id = value.pop("id", self.id)
        if unknown := value.keys() - set(_FIELDS):
            raise ValueError(f"unknown {', '.join(sorted(unknown))}: there are {', '.join(_FIELDS)}")
        if ("prompt" in value) == ("messages" in value):
            raise ValueError('one of "prompt" and "messages" is needed, and not both')
        if "prompt" in value:
            self.prompt = arguments.text("prompt", value.pop("prompt"))
        else:
            self.messages = checked(value.pop("messages"))
        self.system = arguments.text("system", value.pop("system", self.system))
        self.options = value

    def tokens(self, llm: LLM, raw: bool) -> list[int]:
        """What the model reads. Raises ValueError for a line that is wrong, and whatever the template does not take."""
        if self.wrong:
            raise self.wrong
        if self.prompt is None:
            messages = self.messages
        elif llm.has_chat_template and not raw:
            messages = self.dialogue.messages(self.prompt, self.system)
        else:
            return llm.prompt_tokens(self.prompt)
        return llm.prompt_tokens(llm.render(messages, **self.dialogue.variables))


class Answers:
    """Answers to tasks, given in their order however they are made."""

    def __init__(self, llm: LLM, tasks: list[Task], raw: bool, defaults: dict[str, Any]) -> None:
        self._llm, self._raw, self._defaults = llm, raw, defaults
        self._tasks = iter(tasks)
        self._begun: deque[tuple[Task, Generation | str]] = deque()  # in order; text where it failed
        self._scheduler = llm.scheduler
        self._scheduler.step_seconds = math.inf  # nobody waits for a token

    def __iter__(self) -> Iterator[dict[str, Any]]:
        running: list[Generation] = []
        while True:
            running = [answer for answer in running if not answer.done]
            running += self._start(self._scheduler.n_parallel - len(running))
            yield from self._ready()
            if not running:
                return
            self._scheduler.step()
            for answer in running:
                answer.read()

    def _start(self, n: int) -> list[Generation]:
        """Begin n more answers, or as many as are left."""
        found: list[Generation] = []
        while len(found) < n and (task := next(self._tasks, None)):
            try:
                answer = self._llm.stream(task.tokens(self._llm, self._raw), **{**self._defaults, **task.options})
            except Exception as error:
                self._begun.append((task, process.describe(error)))
            else:
                self._begun.append((task, answer))
                answer.begin()
                found.append(answer)
        return found

    def _ready(self) -> Iterator[dict[str, Any]]:
        while self._begun and (isinstance(first := self._begun[0][1], str) or first.done):
            task, answer = self._begun.popleft()
            if isinstance(answer, str):
                yield {"id": task.id, "error": answer}
                continue
            if answer.error:
                yield {"id": task.id, "error": process.describe(answer.error)}
                continue
            cut = {"error": "cut off before it had the form that was asked for"} if answer.sampler.lacks_form else {}
            yield {
                "id": task.id,
                **cut,
                "text": answer.text,
                "n_prompt": answer.n_prompt,
                "n_tokens": answer.n_tokens,
                "stop_reason": answer.stop_reason,
            }


@contextlib.contextmanager
def _open_results(
    output: str | None, source: bytes, settings: list[Any]
) -> Iterator[tuple[int, Callable[[dict[str, Any]], None]]]:
    """(answers that an earlier run has made, where to write more).

    They gather in a file beside the output, named after what was asked, and take the output's place when all are
    there; so a run that is cut off goes on where it was, and one that asks something else does not.
    """
    if output is None:
        yield 0, lambda value: _write(sys.stdout.buffer, value)
        return
    path = Path(output).resolve()
    key = hashlib.sha256(source + json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
    partial = path.with_name(f"{path.name}.{key}.partial")
    with partial.open("a+b") as file:
        file.seek(0)
        whole = file.read().rpartition(b"\n")[0]
        file.truncate(len(whole) + 1 if whole else 0)
        yield whole.count(b"\n") + 1 if whole else 0, lambda value: _write(file, value)
    os.replace(partial, path)


def _write(file: BinaryIO, value: dict[str, Any]) -> None:
    file.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    file.flush()

"""A model's engine, in a process of its own: reads requests, takes steps, and tells what each step gave.

One thread reads what the HTTP process writes and makes requests ready; the other takes steps, and waits for requests
when there is nothing to do. Standard output belongs to the protocol; what anything else prints goes to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from queue import SimpleQueue
from time import perf_counter
from typing import BinaryIO

from ..generation import Generation
from ..llm import LLM
from .protocol import (
    LENGTH,
    Cancel,
    Command,
    Ended,
    Failed,
    Generate,
    Load,
    Loaded,
    Output,
    Report,
    Step,
    decode_command,
    framed,
)


class Channel:
    """Messages over a pair of pipes."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader, self._writer, self._lock = reader, writer, threading.Lock()

    def receive(self) -> Command | None:
        """The next command; None once there will be no more."""
        head = self._reader.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        (n,) = LENGTH.unpack(head)
        body = self._reader.read(n)
        return decode_command(body) if len(body) == n else None

    def send(self, report: Report) -> None:
        with self._lock:
            self._writer.write(framed(report))
            self._writer.flush()


class EngineLoop:
    """Takes all requests forward that have come."""

    def __init__(self, llm: LLM, channel: Channel) -> None:
        self._llm, self._channel = llm, channel
        self._inbox: SimpleQueue[tuple[int, Generation | None]] = SimpleQueue()  # None: cancelled
        self._answers: dict[int, Generation] = {}

    def run(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            self._take_in()
            start, n_before = perf_counter(), self._llm.scheduler.n_computed
            self._llm.scheduler.step()
            self._report(perf_counter() - start, self._llm.scheduler.n_computed - n_before)

    def _read(self) -> None:
        try:
            while command := self._channel.receive():
                if isinstance(command, Generate):
                    self._prepare(command)
                elif isinstance(command, Cancel):
                    self._inbox.put((command.id, None))
        finally:
            os._exit(0)  # nobody is there any more to answer to

    def _prepare(self, command: Generate) -> None:
        """Make a request ready while a step runs: grammars take time."""
        try:
            options = command.options
            if command.max_thought is not None:
                from ..chat.thinking import Thinking

                options["thinking"] = Thinking(command.max_thought)
            self._inbox.put((command.id, self._llm.stream(command.prompt, **options)))
        except Exception as error:
            self._channel.send(Failed(command.id, describe(error), is_ours=not isinstance(error, ValueError)))

    def _take_in(self) -> None:
        """New requests and cancels; waits for one where there is nothing to do."""
        while not self._answers or not self._inbox.empty():
            id, generation = self._inbox.get()
            if generation:
                self._answers[id] = generation
                generation.begin()
            elif gone := self._answers.pop(id, None):
                gone.close()

    def _report(self, seconds: float, n_tokens: int) -> None:
        outputs = [output for id, answer in self._answers.items() if (output := _output(id, answer))]
        for output in outputs:
            if output.ended:
                del self._answers[output.id]
        pages = self._llm.engine.pages
        self._channel.send(
            Step(
                outputs,
                seconds,
                n_tokens,
                self._llm.scheduler.n_preempted,
                pages.n_held,
                pages.n_kept,
                pages.capacity,
            )
        )


def _output(id: int, answer: Generation) -> Output | None:
    """What is new of an answer."""
    pieces = [(piece.token, piece.text, piece.logprob, list(piece.top)) for piece in answer.read()]
    ended = None
    if answer.done:
        ended = Ended(
            answer.stop_reason or "",
            answer.stop_string or None,
            answer.n_tokens,
            answer.step_seconds,
            describe(answer.error) if answer.error else None,
        )
    if not pieces and not ended and answer.n_tokens:
        return None
    n_done = min(answer.sequence.n_computed, answer.n_prompt)
    return Output(id, pieces, n_done, answer.n_reused, answer.prompt_seconds, ended)


def describe(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def main() -> None:
    """Serve the process that started this one, until it closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says when to end
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    load = channel.receive()
    if not isinstance(load, Load):
        return
    start = perf_counter()
    try:
        llm = LLM(load.path, **load.settings)
        llm.scheduler.n_parallel = load.n_parallel
    except Exception as error:
        channel.send(Failed(None, describe(error), is_ours=False))
        return
    n_ctx = min(llm.engine.n_ctx, llm.engine.pages.n_tokens)
    channel.send(Loaded(n_ctx, llm.engine.pages.n_tokens, perf_counter() - start))
    EngineLoop(llm, channel).run()


if __name__ == "__main__":
    main()
    sys.exit()

"""A model's engine, in a process of its own: reads requests, takes steps, and tells what each step gave.

One thread reads what the HTTP process writes and makes requests ready, another makes tokens of texts to embed; the main
one takes steps, with a pass over such texts between them, and waits when there is nothing to do. Standard output
belongs to the protocol; what anything else prints goes to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from time import perf_counter
from typing import BinaryIO, NamedTuple

from ..architectures import ModelError
from ..embedding import TOGETHER, EmbeddingJob, default_pooling
from ..engine import ContextFull
from ..generation import Generation
from ..llm import LLM
from .protocol import (
    LENGTH,
    Cancel,
    Embedded,
    EmbedTexts,
    Ended,
    EngineCommand,
    Failed,
    Generate,
    Load,
    Loaded,
    Output,
    Report,
    StepReport,
    decode_command,
    framed,
)
from .vocabulary import Kind

_BETWEEN = 64  # tokens of texts to embed in a pass, so that answers do not wait for much longer than a step
_MOST = 1 << 24  # numbers that one request may ask for


class Channel:
    """Messages over a pair of pipes."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader, self._writer, self._lock = reader, writer, threading.Lock()

    def receive(self) -> EngineCommand | None:
        """The next command; None once there will be no more."""
        head = self._reader.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        (n,) = LENGTH.unpack(head)
        body = self._reader.read(n)
        return decode_command(body) if len(body) == n else None

    def send(self, report: Report) -> None:
        try:
            with self._lock:
                self._writer.write(framed(report))
                self._writer.flush()
        except OSError:
            os._exit(0)  # nobody is there any more to answer to


class Running(NamedTuple):
    """An answer that is being made."""

    id: int
    answer: Generation
    tells_progress: bool

    def output(self) -> Output | None:
        """What is new of it."""
        answer = self.answer
        pieces = [(piece.token, piece.text, piece.logprob, list(piece.top)) for piece in answer.read()]
        if not pieces and not answer.done and (answer.n_tokens or not self.tells_progress):
            return None
        return Output(
            self.id,
            pieces,
            min(answer.sequence.n_computed, answer.n_prompt),
            answer.n_reused,
            answer.n_tokens,
            answer.prompt_seconds,
            answer.step_seconds,
            _ended(answer) if answer.done else None,
            answer.n_drafts,
            answer.n_guessed,
            answer.n_accepted,
        )


class RunningEmbedding:
    """Texts that are being embedded. seconds: that passes took."""

    def __init__(self, id: int, job: EmbeddingJob) -> None:
        self.id, self.job, self.seconds, self.n_passes = id, job, 0.0, 0

    def step(self, n_together: int) -> Embedded | None:
        """A pass; gives all that there is, once it is."""
        job, start = self.job, perf_counter()
        job.step(n_together)
        self.seconds, self.n_passes = self.seconds + perf_counter() - start, self.n_passes + 1
        if not job.done:
            return None
        rows = [row.tobytes() for row in job.rows]
        return Embedded(self.id, rows, job.n_tokens, self.seconds, job.width, self.n_passes)


class EngineLoop:
    """Takes all requests forward that have come. The process ends with the channel, also while the model is loaded."""

    _llm: LLM  # is there before the first request, which waits for Loaded

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inbox: SimpleQueue[Running | RunningEmbedding | Cancel] = SimpleQueue()
        self._running: dict[int, Running] = {}
        self._embedding: dict[int, RunningEmbedding] = {}  # that whose turn is next first
        self._embedder = ThreadPoolExecutor(1)  # makes them ready: long texts hold up no answers so

    def run(self, load: Load) -> None:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        try:
            loaded = self._load(load)
        except Exception as error:
            self._channel.send(Failed(None, describe(error), "failed"))
            reader.join()
            return
        self._channel.send(loaded)
        while True:
            self._take_in()
            if self._llm.generates:
                self._step()
            if self._embedding:
                self._embed()

    def _load(self, load: Load) -> Loaded:
        self._llm = llm = LLM(load.path, **load.settings)
        if llm.generates:
            llm.scheduler.n_parallel, llm.scheduler.whole_prompts = load.n_parallel, False
            n_ctx = min(llm.engine.n_ctx, llm.engine.pages.n_tokens)
        else:
            n_ctx = llm.embedder().n_most
        return Loaded(n_ctx, llm.generates, default_pooling(llm.model))

    def _read(self) -> None:
        try:
            while command := self._channel.receive():
                if isinstance(command, Generate):
                    self._prepare(command)
                elif isinstance(command, EmbedTexts):
                    self._embedder.submit(self._prepare_embedding, command)
                elif isinstance(command, Cancel):
                    self._inbox.put(command)
                    self._embedder.submit(self._inbox.put, command)  # what is not ready yet comes before that
        finally:
            os._exit(0)  # nobody is there any more to answer to

    def _prepare(self, command: Generate) -> None:
        """Make a request ready while a step runs: grammars take time."""
        try:
            if command.max_thought is not None:
                from ..chat.thinking import Thinking

                command.options["thinking"] = Thinking(command.max_thought)
            answer = self._llm.stream(command.prompt, **command.options)
            self._inbox.put(Running(command.id, answer, command.tells_progress))
        except Exception as error:
            self._fail(command.id, error)

    def _prepare_embedding(self, command: EmbedTexts) -> None:
        llm, options = self._llm, command.options
        try:
            if command.query is None:
                job = llm.embedding_job(command.texts, **options)
                if (n := job.width * len(command.texts)) > _MOST:
                    raise ValueError(f"these texts' vectors have {n} numbers, more than {_MOST}: ask for fewer at once")
            else:
                texts = [text for text in command.texts if isinstance(text, str)]
                job = llm.rerank_job(command.query, texts, **options)
            self._inbox.put(RunningEmbedding(command.id, job))
        except Exception as error:
            self._fail(command.id, error)

    def _fail(self, id: int | None, error: Exception) -> None:
        self._channel.send(Failed(id, describe(error), _kind(error)))

    def _take_in(self) -> None:
        """New requests and cancels; waits for one where there is nothing to do."""
        waits = not (self._running or self._embedding)
        while waits or not self._inbox.empty():
            item, waits = self._inbox.get(), False
            if isinstance(item, Running):
                self._running[item.id] = item
                item.answer.begin()
            elif isinstance(item, RunningEmbedding):
                self._embedding[item.id] = item
            elif gone := self._running.pop(item.id, None):
                gone.answer.close()
            else:
                self._embedding.pop(item.id, None)

    def _step(self) -> None:
        scheduler = self._llm.scheduler
        start, n_before = perf_counter(), scheduler.n_computed
        scheduler.step()
        if self._llm.engine.gone:  # so is this process, which is started again
            sys.exit(f"ggrun: {self._llm.engine.gone}")
        self._report(perf_counter() - start, scheduler.n_computed - n_before)

    def _embed(self) -> None:
        """A pass for one of those who have texts embedded, by turns."""
        embedding = self._embedding.pop(next(iter(self._embedding)))
        try:
            done = embedding.step(_BETWEEN if self._running else TOGETHER)
        except Exception as error:
            self._fail(embedding.id, error)
            return
        if done:
            self._channel.send(done)
        else:
            self._embedding[embedding.id] = embedding

    def _report(self, seconds: float, n_tokens: int) -> None:
        outputs = [output for running in self._running.values() if (output := running.output())]
        for output in outputs:
            if output.ended:
                del self._running[output.id]
        n_preempted, pages = self._llm.scheduler.n_preempted, self._llm.engine.pages
        state = (n_preempted, pages.n_held, pages.n_kept, pages.capacity)
        self._channel.send(StepReport(outputs, seconds, n_tokens, *state))


def _ended(answer: Generation) -> Ended:
    error = describe(answer.error) if answer.error else None
    return Ended(answer.stop_reason or "", answer.stop_string or None, error)


def _kind(error: Exception) -> Kind:
    """Whose fault it is."""
    kinds: dict[type[Exception], Kind] = {ContextFull: "too_long", ModelError: "invalid", ValueError: "invalid"}
    return next((kind for known, kind in kinds.items() if isinstance(error, known)), "failed")


def describe(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def main() -> None:
    """Serve the process that started this one, until it closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where the session is the parent's, which says when to end
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    load = channel.receive()
    if isinstance(load, Load):
        EngineLoop(channel).run(load)


if __name__ == "__main__":
    main()
    sys.exit()

"""The loop that makes an answer: prompt in, token after token out, until something ends it."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from time import perf_counter
from typing import Literal

from .engine import Chunk, ContextFull, Engine
from .sampling import Sampler
from .tokenizer import Tokenizer

StopReason = Literal["end", "length", "stop", "context"]


class Generation(Iterator[str]):
    """An answer in the making: iterate for its text, in pieces, as it is made. The attributes tell the rest.

    prompt: token ids of the prompt. tokens: ids of the answer so far, without the one that ends it.
    stop_reason: None while it goes on, then "end" (the model ended it), "length" (max_tokens), "stop" (a stop
    string, which is left out) or "context" (no room for more). prompt_seconds: time to compute the prompt.
    n_steps, step_seconds: the steps after it, a token each, and their time with sampling.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampler: Sampler,
        max_tokens: int | None = None,
        stop: Collection[str] = (),
    ) -> None:
        """Raises ContextFull where the prompt does not fit, ValueError where it is empty."""
        if not prompt:
            raise ValueError("the prompt is empty")
        if len(prompt) > engine.n_ctx:
            raise ContextFull(
                f"the prompt has {len(prompt)} tokens and the context room for {engine.n_ctx}: "
                "ask for a larger one with -c, or shorten the prompt"
            )
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self.stop_reason: StopReason | None = None
        self.prompt_seconds = self.step_seconds = 0.0
        self.n_steps = 0
        self.sampler = sampler
        self._engine = engine
        self._end_ids = tokenizer.eog_ids
        self._pieces = self._text(tokenizer, max_tokens, stop)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Give up the answer here; what it holds of the KV cache is free again."""
        self._pieces.close()

    def _text(self, tokenizer: Tokenizer, max_tokens: int | None, stop: Collection[str]) -> Generator[str]:
        """The answer's text. No piece ends within a character, or within what may become a stop string."""
        decoder = tokenizer.decoder()
        watch = _StopWatch(stop)
        tokens = self._run(max_tokens)
        for token in tokens:
            if piece := watch.push(decoder.push(token)):
                yield piece
            if watch.stopped:
                tokens.close()
                self.stop_reason = "stop"
                return
        if rest := watch.push(decoder.flush()) + watch.flush():
            yield rest

    def _run(self, max_tokens: int | None) -> Generator[int]:
        """The answer's tokens. Each is computed when it is asked for, so that none is made in vain."""
        sequence = self._engine.new_sequence()
        try:
            start = perf_counter()
            logits = self._engine.step([Chunk(sequence, self.prompt)])
            self.prompt_seconds = perf_counter() - start
            for token in self.prompt:
                self.sampler.accept(token)
            while len(self.tokens) != max_tokens:
                start = perf_counter()
                if self.tokens:
                    if sequence.n_tokens == self._engine.n_ctx:
                        self.stop_reason = "context"
                        return
                    logits = self._engine.step([Chunk(sequence, self.tokens[-1:])])
                    self.n_steps += 1
                token = self.sampler.sample(logits[0])
                self.step_seconds += perf_counter() - start
                if token in self._end_ids:
                    self.stop_reason = "end"
                    return
                self.sampler.accept(token)
                self.tokens.append(token)
                yield token
            self.stop_reason = "length"
        finally:
            sequence.release()


class _StopWatch:
    """Lets text through up to the first stop string; holds back what may be the beginning of one."""

    def __init__(self, stops: Collection[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text with which the stop string begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)

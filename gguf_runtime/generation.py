"""An answer in the making: which tokens to compute next, and what text their logits make."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np

from .context import Context
from .engine import Chunk, ContextFull, Engine, EngineError
from .sampling import Sampler
from .speculation import Speculation
from .tokenizer import Tokenizer

StopReason = Literal["end", "length", "stop", "context"]


class Piece(NamedTuple):
    """A token of an answer, and the text that is certain now that it has come."""

    token: int | None  # None: text that was held back, once it is known to be part of the answer
    text: str


class Generation(Iterator[str]):
    """Iterate for the text, in pieces, as it is made. The attributes tell the rest. Several answers are made together
    by computing the `chunk` of each in one step, for each to `take` its logits.

    prompt: token ids of the prompt. text, tokens: the answer so far, and its ids without the one that ends it.
    stop_reason: None while it goes on, then "end" (the model ended it), "length" (max_tokens), "stop" (a stop
    string, which is left out) or "context" (no room for more). n_reused: tokens of the prompt that were in the
    context already; prompt_seconds: time to compute the others and draw a token. n_steps, step_seconds: the steps
    after it and their time, with sampling; n_decoded: the tokens that they gave. n_guessed, n_accepted: tokens that
    speculation proposed, and those that proved right.

    Threads may share it: each piece goes to one of them.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampler: Sampler,
        max_tokens: int | None = None,
        stop: Collection[str] = (),
        *,
        context: Context | None = None,
        speculation: Speculation | None = None,
        shift: bool = False,
        special: bool = False,
        n_keep: int | None = None,
    ) -> None:
        """context: what to go on from where the prompt begins alike; it will hold prompt and answer. shift: in a full
        context, forget half of what is after the first n_keep tokens rather than stop; n_keep: None for the prompt, up
        to half of the context, -1 for all of the prompt. special: control tokens give text too.

        Raises ContextFull where the prompt does not fit, ValueError where it is empty.
        """
        if not prompt:
            raise ValueError("the prompt is empty")
        if len(prompt) > engine.n_ctx:
            raise ContextFull(
                f"the prompt has {len(prompt)} tokens and the context room for {engine.n_ctx}: "
                "ask for a larger one with -c, or shorten the prompt"
            )
        self.prompt = list(prompt)
        self.text = ""
        self.tokens: list[int] = []
        self.stop_reason: StopReason | None = None
        self.prompt_seconds = self.step_seconds = 0.0
        self.n_reused = self.n_steps = self.n_decoded = self.n_guessed = self.n_accepted = 0
        self.sampler = sampler
        self._engine, self._max_tokens, self._shift = engine, max_tokens, shift
        # some tokens at least are to be forgotten, and the first of all stays: attention leans on it
        self._n_keep = min(len(prompt), engine.n_ctx // 2 if n_keep is None else engine.n_ctx - 2)
        if n_keep is not None and n_keep >= 0:
            self._n_keep = min(self._n_keep, max(1, n_keep))
        self._context, self._owned = context or Context(engine), context is None
        self._speculation = speculation
        self._end_ids = tokenizer.eog_ids
        self._decoder, self._watch = tokenizer.decoder(special), _StopWatch(stop)
        self._ready: deque[str] = deque()
        self._closed = False
        self._hold = self._context.take_over()
        self._chunk = self._context.begin(self.prompt)
        self.n_reused = len(self.prompt) - len(self._chunk.tokens)

    def __next__(self) -> str:
        with self._engine.turn():
            while not self._ready:
                if self.done:
                    raise StopIteration
                self._ready += [piece.text for piece in self.advance() if piece.text]
            return self._ready.popleft()

    @property
    def done(self) -> bool:
        return self._closed or self.stop_reason is not None

    def close(self) -> None:
        """Give up the answer here. What it alone holds of the KV cache is free again."""
        self._closed = True
        if self._owned:
            self._context.release()

    def advance(self) -> list[Piece]:
        """Take one step, unless the answer is done. Raises EngineError where another answer took over its context."""
        with self._engine.lock:  # until the context knows of it
            start = perf_counter()
            return self.take(self._engine.step([self.chunk()]), start)

    def chunk(self) -> Chunk:
        """What the engine is to compute next. Raises EngineError where another answer took over its context."""
        if not self._context.is_held_by(self._hold):
            raise EngineError("a later answer goes on from this one's context: give each a context of its own")
        if self.tokens:
            self._chunk = self._following()
        return self._chunk

    def take(self, logits: np.ndarray, start: float) -> list[Piece]:
        """The answer's next pieces, from the chunk's logits, whose step began at `start` (by perf_counter)."""
        first = not self.tokens
        if first:
            self._begin()
        self._context.note(self._chunk)
        guess = self._chunk.tokens[len(self._chunk.tokens) - len(logits) + 1 :]
        n_before, n_right = len(self._context.tokens) - len(guess), 0
        pieces: list[Piece] = []
        if self._max_tokens == 0:
            self._stop("length", pieces)
        while not self.stop_reason:
            token = self.sampler.sample(logits[n_right])
            self._append(token, n_before + n_right, pieces)
            if self.stop_reason or n_right == len(guess) or token != guess[n_right]:
                break
            n_right += 1
        self._context.truncate(n_before + n_right)
        seconds = perf_counter() - start
        if first:
            self.prompt_seconds = seconds
        else:
            self._account(len(guess), n_right, seconds)
        self.text += "".join(piece.text for piece in pieces)
        if self.done:
            self.close()
        return pieces

    def _following(self) -> Chunk:
        """The last token, with a guess of how it goes on."""
        context, last = self._context, self.tokens[-1]
        if context.is_full:
            n_kept = self._n_keep
            n_lost = -(-(len(context.tokens) - n_kept) // 2)
            return context.begin([*context.tokens[:n_kept], *context.tokens[n_kept + n_lost :], last])
        room = self._engine.n_ctx - len(context.tokens) - 1
        if self._max_tokens is not None:
            room = min(room, self._max_tokens - len(self.tokens) - 1)
        guess = self._speculation.guess(room) if self._speculation else []
        return Chunk(context.sequence, [last, *guess], 1 + len(guess))

    def _begin(self) -> None:
        self.sampler.begin(self.prompt)
        if self._speculation:
            self._speculation.begin(self.prompt, len(self._chunk.tokens))

    def _append(self, token: int, n_context: int, pieces: list[Piece]) -> None:
        """The text goes on with this token, n_context tokens being in the context before it."""
        if token in self._end_ids:
            self._stop("end", pieces)
            return
        self.sampler.accept(token)
        if self._speculation:
            self._speculation.drawn(token)
        self.tokens.append(token)
        pieces.append(Piece(token, self._watch.push(self._decoder.push(token))))
        if self._watch.stopped:
            self.stop_reason = "stop"
        elif len(self.tokens) == self._max_tokens:
            self._stop("length", pieces)
        elif n_context == self._engine.n_ctx and not self._shift:
            self._stop("context", pieces)

    def _stop(self, reason: StopReason, pieces: list[Piece]) -> None:
        self.stop_reason = reason
        # a character that a limit cut off in the middle is not shown; one that the model left so is
        cut_off = self._decoder.flush() if reason == "end" else ""
        if rest := self._watch.push(cut_off) + self._watch.flush():
            pieces.append(Piece(None, rest))

    def _account(self, n_guessed: int, n_right: int, seconds: float) -> None:
        self.n_steps, self.step_seconds = self.n_steps + 1, self.step_seconds + seconds
        self.n_decoded += n_right + 1
        self.n_guessed, self.n_accepted = self.n_guessed + n_guessed, self.n_accepted + n_right
        if self._speculation:
            self._speculation.spent(1 + n_guessed, n_right + 1, seconds)


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
        held = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text with which the stop string begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)

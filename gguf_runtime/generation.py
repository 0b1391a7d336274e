"""An answer in the making: what text the logits make of a prompt, one token after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from .engine import Chunk, ContextFull, Logits, Scheduler
from .sampling import Sampler
from .speculation import Speculation
from .text import Text, overlap
from .tokenizer import Tokenizer

StopReason = Literal["end", "length", "stop", "context"]

_AHEAD = 64  # pieces that nobody has read, while other answers are read


class Piece(NamedTuple):
    """A token of an answer, and the text that is certain now that it has come.

    logprob: of the token, as the model has it before sampling, or as it was drawn; top: the likeliest tokens there with
    theirs.
    """

    token: int | None  # None: text that was held back, once it is known to be part of the answer
    text: str
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


class Generation(Iterator[str]):
    """Iterate for the text, in pieces, as it is made. The attributes tell the rest. While one answer is read, others
    that have begun are made with it.

    sequence: prompt and answer. text, tokens: the answer so far, and its ids without the one that ends it.
    stop_reason: None while it goes on, then "end" (the model ended it), "length" (max_tokens), "stop" (a stop
    string, which is left out) or "context" (no room for more). error: what has ended it instead; reading raises it.
    n_reused: tokens of the prompt that had been computed before; prompt_seconds: time to compute the others and draw a
    token. n_steps, step_seconds: the steps after it and their time, with sampling; n_decoded: the tokens that they
    gave. n_drafts: those with guesses; n_guessed, n_accepted: tokens that speculation proposed, and those that proved
    right.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampler: Sampler,
        max_tokens: int | None = None,
        stop: Collection[str] = (),
        *,
        speculation: Callable[[Text], Speculation] | None = None,
        shift: bool = False,
        n_keep: int | None = None,
        special: bool | Collection[int] = False,
        tree: Hashable = "",
        source: Sequence[int] = (),
        alone: bool = False,
        stop_tokens: Collection[int] = (),
        n_logprobs: int | None = None,
        as_drawn: bool = False,
        client: Hashable = "",
        priority: int = 0,
    ) -> None:
        """speculation: what guesses how a text goes on. shift: in a full context, forget half of what is after the
        first n_keep tokens rather than stop; n_keep: None for the prompt, up to half of the context, -1 for all of the
        prompt. special: control tokens, or some of them, give text too. tree: of the prefix cache, source: what an
        encoder reads first (Engine.new_sequence). alone: each step is for this answer only. stop_tokens: end the answer
        too. n_logprobs: how many of the likeliest tokens to tell at each place; None: not even the drawn one's
        probability; as_drawn: after the sampler's filters and temperature, rather than the model's own.
        client, priority: whose turn it is among others (fairness.py).

        Raises ContextFull where the prompt does not fit, EngineError where it has a token that there is not, ValueError
        where it is empty.
        """
        engine = scheduler.engine
        if not prompt:
            raise ValueError("the prompt is empty")
        if len(prompt) > engine.n_ctx:
            raise ContextFull(
                f"the prompt has {len(prompt)} tokens and the context room for {engine.n_ctx}: "
                "ask for a larger one (-c, or n_ctx in Python), or shorten the prompt"
            )
        engine.check(np.asarray(prompt, np.int64))
        self.sequence = engine.new_sequence(prompt, tree, source)
        self.n_prompt = len(prompt)
        self.text = ""
        self.stop_reason: StopReason | None = None
        self.error: Exception | None = None
        self.prompt_seconds = self.step_seconds = 0.0
        self.n_reused = self.n_steps = self.n_decoded = self.n_drafts = self.n_guessed = self.n_accepted = 0
        self.sampler, sampler.text = sampler, self.sequence.text
        self._scheduler, self._n_ctx, self._max_tokens, self._shift = scheduler, engine.n_ctx, max_tokens, shift
        # some tokens at least are to be forgotten, and the first of all stays: attention leans on it
        self._n_keep = min(len(prompt), engine.n_ctx // 2 if n_keep is None else engine.n_ctx - 2)
        if n_keep is not None and n_keep >= 0:
            self._n_keep = min(self._n_keep, max(1, n_keep))
        self.alone, self.client, self.priority = alone, client, priority
        self._speculation = speculation(self.sequence.text) if speculation else None
        self._end_ids = tokenizer.eog_ids.union(stop_tokens)
        self.n_best, self.normalizes = max(sampler.n_best, n_logprobs or 0), n_logprobs is not None
        self._n_logprobs, self._as_drawn = n_logprobs, as_drawn
        self._decoder, self._watch = tokenizer.decoder(special), _StopWatch(stop)
        self._pieces: deque[Piece] = deque()
        self._added = self._begun = self._answering = self._closed = False

    def __next__(self) -> str:
        while True:
            done = self.done  # another thread may be adding the last pieces: they are there before it is done
            while self._pieces:
                if text := self._pieces.popleft().text:
                    return text
            if done:
                raise (None if self._closed else self.error) or StopIteration
            self._wait()

    @property
    def prompt(self) -> list[int]:
        """Token ids of the prompt."""
        return list(map(int, self.sequence.text.ids[: self.n_prompt]))

    @property
    def tokens(self) -> list[int]:
        return list(map(int, self.sequence.text.ids[self.n_prompt :]))

    @property
    def n_tokens(self) -> int:
        return len(self.sequence.text) - self.n_prompt

    @property
    def stop_string(self) -> str:
        """The stop string that ended the answer, or ""."""
        return self._watch.stopped

    @property
    def done(self) -> bool:
        return self._closed or self.stop_reason is not None or self.error is not None

    @property
    def is_ahead(self) -> bool:
        return len(self._pieces) > _AHEAD

    def begin(self) -> None:
        """Have the answer made from the next step on, whoever takes it. Otherwise that begins with reading it."""
        if not self._added:
            self._added = True
            self._scheduler.add(self)

    def close(self) -> None:
        """Give up the answer here. What it alone holds of the KV cache is free again."""
        self._closed = True
        self._pieces.clear()
        self._scheduler.abort(self)

    def advance(self) -> list[Piece]:
        """Take a step, unless there are pieces that have not been read, or the answer is done; then read. Raises what
        has ended the answer."""
        if not self._pieces and not self.done:
            self._wait()
        if self.error and not self._pieces:
            raise self.error
        return self.read()

    def read(self) -> list[Piece]:
        """The pieces that have come and not been read."""
        return [self._pieces.popleft() for _ in range(len(self._pieces))]

    def _wait(self) -> None:
        self.begin()
        self._scheduler.advance(self, lambda: self._pieces or self.done)

    def guess(self) -> list[int]:
        """Of the scheduler: what may follow the last token."""
        if not self._speculation:
            return []
        room = self._n_ctx - self.sequence.n_context
        if self._max_tokens is not None:
            room = min(room, self._max_tokens - self.n_tokens - 1)
        return self._speculation.guess(room)

    def take(self, logits: Logits, chunk: Chunk, start: float, *, alone: bool) -> None:
        """Of the scheduler: the answer's next pieces, from the logits of a chunk. Raises what the sampler does."""
        if not self._begun:
            self._begun, self.n_reused = True, chunk.position
        was_answering = self._answering
        n_logits = chunk.n_logits
        n_right = self._draw(logits, chunk) if n_logits else 0
        self.sequence.rewind(chunk.position + len(chunk.tokens) - max(n_logits - 1, 0) + n_right)
        if self._shift and not self.done and self.sequence.n_context > self._n_ctx:
            self.sequence.forget(self._n_keep, -(-(self._n_ctx - self._n_keep) // 2))
        seconds = self._scheduler.clock() - start
        if not was_answering:
            self.prompt_seconds += seconds
        else:
            self._account(n_logits, n_right, seconds, alone)

    def fail(self, error: Exception) -> None:
        """Of the scheduler: the answer ends with this error."""
        self.error = error

    def _draw(self, logits: Logits, chunk: Chunk) -> int:
        """Draw tokens as far as the logits go; gives how many guesses proved right."""
        if not self._answering:
            self._answering = True
            if self._speculation:
                self._speculation.begin(self.n_prompt - self.n_reused)
        if self._max_tokens == 0:
            self._stop("length")
        guess = chunk.tokens[len(chunk.tokens) - chunk.n_logits + 1 :]
        n_before, n_right = chunk.position + len(chunk.tokens) - len(guess), 0
        while not self.stop_reason:
            row, best = logits.rows[n_right], None if logits.best is None else logits.best[n_right]
            token = self.sampler.sample(row, best)
            normalizer = None if logits.normalizers is None else float(logits.normalizers[n_right])
            self._append(token, n_before + n_right, *self._chances(token, row, best, normalizer))
            if self.stop_reason or n_right == len(guess) or token != guess[n_right]:
                break
            n_right += 1
        return n_right

    def _chances(
        self, token: int, logits: np.ndarray, best: np.ndarray | None, normalizer: float | None
    ) -> tuple[Any, ...]:
        """What is to be told of how likely the token was."""
        if self._n_logprobs is None:
            return ()
        if self._as_drawn:
            return self.sampler.chances(token, self._n_logprobs)
        assert normalizer is not None  # it was asked for
        return log_probabilities(logits, token, self._n_logprobs, best, normalizer)

    def _append(self, token: int, n_context: int, *chances: Any) -> None:
        """The text goes on with this token, n_context tokens being in the context before it."""
        if token in self._end_ids:
            self._stop("end")
            return
        self.sequence.text.append(token)
        if self._speculation:
            self._speculation.drawn(token)
        self._emit(token, self._watch.push(self._decoder.push(token)), *chances)
        if self._watch.stopped:
            self.stop_reason = "stop"
        elif self.n_tokens == self._max_tokens:
            self._stop("length")
        elif n_context == self._n_ctx and not self._shift:
            self._stop("context")

    def _stop(self, reason: StopReason) -> None:
        # a character that a limit cut off in the middle is not shown; one that the model left so is
        cut_off = self._decoder.flush() if reason == "end" else ""
        if rest := self._watch.push(cut_off) + self._watch.flush():
            self._emit(None, rest)
        self.stop_reason = reason

    def _emit(self, token: int | None, text: str, *chances: Any) -> None:
        self.text += text
        self._pieces.append(Piece(token, text, *chances))

    def _account(self, n_logits: int, n_right: int, seconds: float, alone: bool) -> None:
        """Note what a step after the prompt has cost and given; without logits it only computed anew what was lost."""
        self.step_seconds += seconds
        if n_logits:
            self.n_steps, self.n_decoded = self.n_steps + 1, self.n_decoded + n_right + 1
            self.n_drafts += n_logits > 1
            self.n_guessed, self.n_accepted = self.n_guessed + n_logits - 1, self.n_accepted + n_right
            if self._speculation and alone:
                self._speculation.spent(n_logits, n_right + 1, seconds)


class _StopWatch:
    """Lets text through up to the first stop string; holds back what may be the beginning of one."""

    def __init__(self, stops: Collection[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = ""  # the stop string that came

    def push(self, text: str) -> str:
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.stopped = min(found)
            self._held = ""
            return text[:at]
        held = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def log_probabilities(
    logits: np.ndarray, token: int, n: int, best: np.ndarray | None, normalizer: float
) -> tuple[float, list[tuple[int, float]]]:
    """A token's log probability, given f32[n_vocab], and the n likeliest tokens with theirs, the likeliest first.

    best, normalizer: as in `Logits`.
    """
    if best is None or len(best) < n:
        best = np.argpartition(logits, -n)[-n:] if n else np.zeros(0, np.int64)
    top = best[np.argsort(-logits[best], kind="stable")][:n]
    return float(logits[token]) - normalizer, [(int(i), float(logits[i]) - normalizer) for i in top]

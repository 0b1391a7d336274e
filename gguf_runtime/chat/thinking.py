"""Thoughts of a bounded length: a sampler that has the model come to its answer."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from ..sampling import Sampler
from ..tokenizer import Tokenizer
from .parser import AnswerParser
from .reasoning import THINKING

_TAIL = 32  # tokens at a prompt's end, in which a thought may have begun


class Thinking(NamedTuple):
    """budget: tokens that a thought may have. message: what to add to one that is cut short."""

    budget: int
    message: str = ""


class BriefSampler(Sampler):
    """Draws tokens, but those that end a thought once it has had all of its own."""

    def __init__(self, sampler: Sampler, thinking: Thinking, tokenizer: Tokenizer) -> None:
        self.seed, self.n_best = sampler.seed, sampler.n_best
        self._sampler, self._thinking, self._tokenizer = sampler, thinking, tokenizer
        self._parser, self._decoder = AnswerParser(THINKING), tokenizer.decoder()
        self._n_seen = self._n_thought = 0
        self._ending: deque[int] | None = None
        self._forced: int | None = None  # the last token, if it was not drawn

    @property
    def lacks_form(self) -> bool:
        return self._sampler.lacks_form

    def sample(self, logits: np.ndarray, best: np.ndarray | None = None) -> int:
        self._sampler.text, self._forced = self.text, None
        self._follow()
        closing = self._parser.closing
        if self._ending is None and closing and self._n_thought >= self._thinking.budget:
            text = self._thinking.message + closing
            ending = self._tokenizer.encode(text, add_special=False, parse_special=True)
            if self._sampler.takes(ending):  # a grammar does not, in the middle of a character
                self._ending = deque(ending)
        if not self._ending:
            return self._sampler.sample(logits, best)
        self._sampler.follow(self._ending[0])
        self._forced = self._ending.popleft()
        return self._forced

    def chances(self, token: int, n: int) -> tuple[float, list[tuple[int, float]]]:
        return (0.0, [(token, 0.0)][:n]) if token == self._forced else self._sampler.chances(token, n)

    def _follow(self) -> None:
        """Look at what the text has got since the last draw; at first, that is the prompt."""
        new = self.text.ids[self._n_seen :].tolist()
        if not self._n_seen:
            self._parser = AnswerParser(THINKING, prompt=self._tokenizer.decode(new[-_TAIL:], skip_special=False))
        else:
            for token in new:
                self._n_thought += bool(self._parser.closing)
                self._parser.push(self._decoder.push(token))
        self._n_seen += len(new)

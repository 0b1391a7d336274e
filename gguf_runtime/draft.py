"""A small model that guesses for a large one of the same vocabulary (Leviathan et al. 2023, arXiv:2211.17192)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .context import Context
from .engine import Chunk


class DraftModel:
    """Guesses what the small model holds likeliest, for one text.

    Texts may share a context, which follows the one that is guessed for: best, one that begins alike.
    """

    credit, advantage, faith = 3.0, 1.1, 10.0  # who names a draft model wants it tried
    _SUPPORT = 32  # as good as an agreement of this many tokens, until its odds are known
    _FIRST = 3  # tokens of a first guess; more once these are right
    _SURE = 0.5  # a guess ends before a token to which the small model gives less

    def __init__(self, context: Context, cost: float) -> None:
        """cost: of a step of this model, in steps of the large one."""
        self._context, self._cost = context, cost
        self._text: list[int] = []
        self._pending: list[int] = []  # guessed, and not yet known to be right or wrong
        self.reach = self._FIRST

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._text.append(token)
            if self._pending[:1] == [token]:
                self._pending = self._pending[1:]
                self.reach += 1
            elif self._pending:
                self._pending, self.reach = [], max(self._FIRST, self.reach // 2)

    @property
    def support(self) -> int:
        return self._SUPPORT if len(self._text) < self._context.engine.n_ctx else 0

    @property
    def expected(self) -> int | None:
        return self._pending[0] if self._pending else None

    def cost(self, n_tokens: int) -> float:
        return self._cost * n_tokens

    def guess(self, n_tokens: int) -> list[int]:
        context = self._context
        n_tokens = min(n_tokens, context.engine.n_ctx - len(self._text))
        self._pending = []
        with context.engine.lock:
            chunk = context.begin(self._text)
            while True:
                logits = context.engine.step([chunk])
                context.note(chunk)
                token, sure = _likeliest(logits[0])
                if sure >= self._SURE or not self._pending:
                    self._pending.append(token)
                if sure < self._SURE or len(self._pending) >= n_tokens:
                    return list(self._pending)
                chunk = Chunk(context.sequence, self._pending[-1:])


def _likeliest(logits: np.ndarray) -> tuple[int, float]:
    """The likeliest token, and its probability."""
    token = int(np.argmax(logits))
    return token, 1 / float(np.exp(logits - logits[token]).sum())

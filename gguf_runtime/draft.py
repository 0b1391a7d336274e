"""A small model that guesses for a large one of the same vocabulary (Leviathan et al. 2023, arXiv:2211.17192)."""

from __future__ import annotations

import numpy as np

from .engine import Engine
from .text import Text, common


class DraftModel:
    """Guesses what the small model holds likeliest to follow a text; it has a sequence of its own for that."""

    budget, advantage, prior_weight = 3.0, 1.1, 10.0  # who names a draft model wants it tried
    _SUPPORT = 32  # as good as an agreement of this many tokens, until its odds are known
    _FIRST = 3  # tokens of a first guess; more once these are right
    _SURE = 0.5  # a guess ends before a token to which the small model gives less

    def __init__(self, engine: Engine, cost: float, text: Text) -> None:
        """cost: of a step of this model, in steps of the large one."""
        self._engine, self._cost, self._text = engine, cost, text
        self._sequence = engine.new_sequence(tree="")
        self._n = 0  # tokens of the text that were looked at
        self._pending: list[int] = []  # guessed, and not yet known to be right or wrong
        self.reach = self._FIRST

    def update(self) -> None:
        for token in self._text.ids[self._n :].tolist() if self._pending else ():
            if self._pending[:1] == [token]:
                self._pending = self._pending[1:]
                self.reach += 1
            elif self._pending:
                self._pending, self.reach = [], max(self._FIRST, self.reach // 2)
        self._n = len(self._text)

    @property
    def support(self) -> int:
        return self._SUPPORT if self._n < self._engine.n_ctx else 0

    @property
    def expected(self) -> int | None:
        return self._pending[0] if self._pending else None

    def cost(self, n_tokens: int) -> float:
        return self._cost * n_tokens

    def guess(self, n_tokens: int) -> list[int]:
        sequence, ids = self._sequence, self._text.ids
        n_tokens = min(n_tokens, self._engine.n_ctx - len(ids))
        same = common(sequence.text.ids, ids)
        sequence.text.truncate(same)
        sequence.rewind(min(same, sequence.n_computed))
        sequence.text.extend(ids[same:].tolist())
        if sequence.n_left:
            sequence.begin()
        else:  # the last token's logits are wanted
            sequence.rewind(len(ids) - 1)
        self._pending = []
        while True:
            logits = self._engine.step([sequence.chunk(sequence.n_left, 1, [])])
            sequence.share(tail=False)
            token, sure = _likeliest(logits[0])
            if sure >= self._SURE or not self._pending:
                self._pending.append(token)
            if sure < self._SURE or len(self._pending) >= n_tokens:
                return list(self._pending)
            sequence.text.append(token)


def _likeliest(logits: np.ndarray) -> tuple[int, float]:
    """The likeliest token, and its probability."""
    token = int(np.argmax(logits))
    return token, 1 / float(np.exp(logits - logits[token]).sum())

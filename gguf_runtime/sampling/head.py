"""The likeliest tokens in place of all: mostly they decide, at a hundredth of the work."""

from __future__ import annotations

import numpy as np

from .candidates import MANY, Candidates, Scratch


class Uncertain(Exception):
    """The likeliest tokens do not tell what a step makes of all."""


class Head(Candidates):
    """The likeliest of all tokens. Any that is not here is at most as likely as the least of these was at first.

    Before a step changes the logits of some tokens, they come in. So what is above that bound comes before all that is
    not here, and a step that keeps only such candidates makes of the head what it makes of all. Numbers are rounded as
    if all were here.
    """

    is_head = True

    def __init__(self, ids: np.ndarray, row: np.ndarray, scratch: Scratch) -> None:
        """row: the logits of all tokens; ids: of the likeliest ones, ascending, of equals the lowest."""
        super().__init__(ids, row.take(ids), scratch)
        self._row, self._bound = row, float(self.logits.min())
        self._allowed: np.ndarray | None = None  # which tokens a grammar does

    def array(self) -> np.ndarray:
        return self._array(len(self.ids))

    def opened(self, tokens: np.ndarray) -> tuple[Candidates, np.ndarray, np.ndarray]:
        known = np.flatnonzero((tokens >= 0) & (tokens < len(self._row)))
        if self._allowed is not None:
            known = known[self._allowed[tokens[known]]]
        wanted = tokens[known]
        ids = np.sort(np.concatenate([self.ids, wanted]))
        is_first = np.ones(len(ids), bool)
        np.not_equal(ids[1:], ids[:-1], out=is_first[1:])
        ids = ids[is_first]
        logits = self._array(len(ids))
        logits[:] = self._row.take(ids)
        logits[np.searchsorted(ids, self.ids)] = self.logits
        return self._with(ids, logits), np.searchsorted(ids, wanted), known

    def those(self, tokens: np.ndarray) -> Candidates:
        return Candidates(tokens, self._row.take(tokens), self._scratch)

    def allowing(self, allowed: np.ndarray) -> Candidates:
        which = np.flatnonzero(allowed[self.ids])
        if not len(which):
            raise Uncertain
        head = self._with(self.ids[which], self.logits[which])
        head._allowed = allowed
        return head

    def likeliest(self, k: int) -> Candidates:
        if k >= len(self.ids):
            raise Uncertain
        kept = super().likeliest(k)
        if kept.logits.min() <= self._bound:
            raise Uncertain
        return kept

    def at_least(self, threshold: float) -> Candidates:
        if threshold <= self._bound:
            raise Uncertain
        return self.keep(np.flatnonzero(self.logits >= threshold))

    def _array(self, n: int) -> np.ndarray:
        return np.empty(n, np.float64 if len(self._row) < MANY else np.float32)

    def _with(self, ids: np.ndarray, logits: np.ndarray) -> Head:
        """Other candidates of the same row."""
        head = Head.__new__(Head)
        Candidates.__init__(head, ids, logits, self._scratch)
        head._row, head._bound, head._allowed = self._row, self._bound, self._allowed
        return head

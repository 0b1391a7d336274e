"""The chain: small steps, each from candidates to fewer or reweighted candidates, and then a draw."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import in_vocabulary
from ..kernels.layout import MOST_BEST
from ..text import Text
from ..tokenizer import Tokenizer
from . import dry, filters, reweigh
from .candidates import Candidates, Scratch, Step
from .draw import draw
from .head import Head, Uncertain
from .mirostat import Mirostat
from .params import SamplingParams

if TYPE_CHECKING:
    from .constraint import Constraint

_KEEP_THE_LIKELIEST = ("top_n_sigma", "top_k", "top_p", "min_p")  # so that a greedy choice needs none of them
_CHANGES = ("bias", "penalties", "dry")  # of the logits of some tokens
_SPARE = 128  # likeliest tokens to know beyond those that are kept, where others become less likely or are forbidden


class Sampler:
    """Draws tokens from logits.

    text: what is gone on with, for the steps that look back. n_best: how many of the likeliest tokens are to be known
    for a draw that mostly need not look at all; 0 where it always does.
    """

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer | None = None) -> None:
        """tokenizer: what DRY finds its sequence breakers with, and a grammar needs.

        Raises GrammarError, ValueError where a bias is of no token.
        """
        if tokenizer:
            in_vocabulary("logit_bias", params.logit_bias, tokenizer.n_vocab)
        self.seed = random.SystemRandom().getrandbits(32) if params.seed is None else params.seed
        # Python promises this generator's sequence for all time and platforms; NumPy does not promise its own
        self._random = random.Random(self.seed).random
        self.text = Text()
        self._n_seen = self._n_unbroken = 0  # tokens of the text that were searched for breakers; those after the last
        self._breakers: dry.Breakers | None = None
        if tokenizer and params.dry_multiplier and "dry" in params.samplers:
            self._breakers = dry.breakers(tokenizer, tuple(params.dry_sequence_breakers))
        self._constraint: Constraint | None = None
        if params.constrains:
            from .constraint import constrain  # llguidance takes time to load

            self._constraint = constrain(params, tokenizer)
        chain = self._chain(params)
        self._steps = [step for _, step in chain]
        self._n_first, self.n_best = _deciding(params, [name for name, _ in chain])
        self._ids, self._scratch = np.arange(0), Scratch()
        self._last_of: Candidates | None = None  # what the last token was drawn of

    @property
    def lacks_form(self) -> bool:
        """Whether a grammar wants more of the answer than has come."""
        return self._constraint is not None and not self._constraint.is_met

    def sample(self, logits: np.ndarray, best: np.ndarray | None = None) -> int:
        """Draw a token, given f32[n_vocab], which is left as it is. A grammar takes it to be a part of the answer.

        best: the ids of its likeliest tokens, ascending, of equals the lowest, if they are known; the token is the same
        without. Raises ValueError for NaN or infinity, or where no token is left.
        """
        candidates = self._begin(logits, best)
        for step in self._steps[self._n_first :]:
            candidates = step(candidates)
        self._last_of = candidates
        chance = self._random()
        token = int(candidates.ids[draw(candidates, chance) if len(candidates.ids) > 1 else 0])
        if self._constraint:
            self._constraint.accept(token)
        return token

    def _begin(self, logits: np.ndarray, best: np.ndarray | None) -> Candidates:
        """What the first steps leave: of the likeliest tokens, if these decide, or of all."""
        if self.n_best and best is not None and len(best) < len(logits):
            with suppress(Uncertain):
                return self._first(Head(best.astype(np.int64), logits, self._scratch))
        if len(self._ids) != len(logits):
            self._ids = np.arange(len(logits))
        return self._first(Candidates(self._ids, logits, self._scratch))

    def _first(self, candidates: Candidates) -> Candidates:
        self._scratch.reset()
        if not math.isfinite(candidates.best):
            raise ValueError("the model's logits are not finite numbers: the file must be damaged")
        if self._constraint:
            candidates = self._constraint(candidates)
        for step in self._steps[: self._n_first]:
            candidates = step(candidates)
        return candidates

    def chances(self, token: int, n: int) -> tuple[float, list[tuple[int, float]]]:
        """The log probability with which the last token was drawn, and the n likeliest ones that it was drawn of with
        theirs, the likeliest first; those that could not be drawn are left out."""
        assert self._last_of
        ids, weights = self._last_of.ids, self._last_of.weights.astype(np.float64)
        possible = np.flatnonzero(weights)
        logs = np.log(weights[possible] / weights[possible].sum())
        order = np.argsort(-logs, kind="stable")[:n]
        top = [(int(ids[possible[i]]), float(logs[i])) for i in order]
        return float(logs[np.flatnonzero(ids[possible] == token)[0]]), top

    def takes(self, tokens: list[int]) -> bool:
        """Whether the answer may go on with these."""
        return self._constraint is None or self._constraint.takes(tokens)

    def follow(self, token: int) -> None:
        """Take a token for part of the answer that was not drawn here. Raises GrammarError where it cannot be one."""
        if self._constraint:
            self._constraint.accept(token)

    def _last(self, n: int) -> np.ndarray:
        """int64: the last n tokens of the text; all of them for -1."""
        return self.text.ids[max(0, len(self.text) - n) if n >= 0 else 0 :].astype(np.int64)

    @property
    def _unbroken(self) -> int:
        """Tokens since the last sequence breaker."""
        n, ids = len(self.text), self.text.ids
        if not self._breakers:
            return n
        new = range(n - self._n_seen)
        ends = (back for back in new if self._breakers and self._breakers.end(ids[: n - back]))
        self._n_unbroken, self._n_seen = next(ends, self._n_unbroken + len(new)), n
        return self._n_unbroken

    def _chain(self, p: SamplingParams) -> list[tuple[str, Step]]:
        """The steps that these parameters switch on, with their names."""
        steps: list[tuple[str, Step]] = []
        if p.logit_bias:
            steps.append(("bias", partial(reweigh.bias, biases=p.logit_bias)))
        if p.mirostat:
            heat = partial(reweigh.temperature, t=p.temperature)
            mirostat = Mirostat(p.mirostat, p.mirostat_tau, p.mirostat_eta, self._random)
            return [*steps, ("temperature", heat), ("mirostat", mirostat)]
        known = self._known(p)
        skipped = _KEEP_THE_LIKELIEST if _is_greedy(p) and "temperature" in p.samplers else ()
        return steps + [(name, known[name]) for name in p.samplers if name in known and name not in skipped]

    def _known(self, p: SamplingParams) -> dict[str, Step]:
        """Name → step, for those that are not switched off."""
        steps: dict[str, tuple[bool, Callable[..., Candidates]]] = {
            "penalties": (p.penalizes, lambda c: reweigh.penalties(
                c, self._last(p.repeat_last_n), p.repeat_penalty, p.presence_penalty, p.frequency_penalty)),
            "dry": (p.dry_multiplier != 0 and p.dry_penalty_last_n != 0, lambda c: dry.dry(
                c, self._last(p.dry_penalty_last_n), self._unbroken,
                p.dry_multiplier, p.dry_base, p.dry_allowed_length, self._breakers.tokens if self._breakers else ())),
            "top_n_sigma": (p.top_n_sigma > 0, partial(filters.top_n_sigma, n=p.top_n_sigma)),
            "top_k": (p.top_k > 0, partial(filters.top_k, k=p.top_k)),
            "typ_p": (p.typical_p < 1, partial(filters.typical, p=p.typical_p)),
            "top_p": (p.top_p < 1, partial(filters.top_p, p=p.top_p)),
            "min_p": (p.min_p > 0, partial(filters.min_p, p=p.min_p)),
            "xtc": (p.xtc_probability > 0 and 0 < p.xtc_threshold <= 0.5, self._xtc(p)),
            "temperature": (p.temperature != 1 or p.dynatemp_range > 0, self._heat(p)),
        }  # fmt: skip
        return {name: step for name, (on, step) in steps.items() if on}

    def _xtc(self, p: SamplingParams) -> Step:
        def sometimes(candidates: Candidates) -> Candidates:
            return filters.xtc(candidates, p.xtc_threshold) if self._random() < p.xtc_probability else candidates

        return sometimes

    def _heat(self, p: SamplingParams) -> Step:
        if p.dynatemp_range > 0:
            return lambda c: reweigh.dynamic_temperature(c, p.temperature, p.dynatemp_range, p.dynatemp_exponent)
        return partial(reweigh.temperature, t=p.temperature)


def _is_greedy(p: SamplingParams) -> bool:
    return p.temperature <= 0 and p.dynatemp_range <= 0


def _deciding(p: SamplingParams, names: list[str]) -> tuple[int, int]:
    """Of a chain: how many steps it takes until few tokens are left, and how many of the likeliest must be known for
    these steps. Both are 0 where a step looks at all tokens before."""
    n_changes = next((i for i, name in enumerate(names) if name not in _CHANGES), len(names))
    kept = {"top_k": p.top_k, "min_p": _SPARE, "temperature": int(_is_greedy(p))}
    n_kept = kept.get(names[n_changes], 0) if n_changes < len(names) else 0
    n_changed = _SPARE if p.constrains or {"penalties", "dry"} & set(names[:n_changes]) else len(p.logit_bias)
    n_best = n_kept + 1 + min(n_changed, _SPARE)
    return (n_changes + 1, n_best) if n_kept and n_best <= MOST_BEST else (0, 0)

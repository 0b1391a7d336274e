"""Choosing the next token: llama.cpp's samplers, their defaults and their order.

A sampler is a chain of small steps, each from candidates to fewer or reweighted candidates, and then a draw.
A step that needs the tokens so far gets them when the chain is built.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np

_GROUP = 64  # logits per group when top_k looks for its threshold


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens; the defaults are llama.cpp's. Raises ValueError for what has no meaning."""

    temperature: float = 0.8  # 0 or less: always the likeliest token
    top_k: int = 40  # 0 or less: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.05  # 0: off
    repeat_penalty: float = 1.0  # 1: off
    repeat_last_n: int = 64  # tokens that the penalties look back on; 0: none, -1: all
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None  # None: another one each time
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to a token's logit; -inf forbids it

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number")
        if self.repeat_penalty <= 0:
            raise ValueError("repeat_penalty must be above 0")
        if self.repeat_last_n < -1:
            raise ValueError("repeat_last_n must be -1 (the whole context) or more")

    @property
    def penalizes(self) -> bool:
        """Whether tokens seen before are treated differently."""
        neutral = self.repeat_penalty == 1 and self.presence_penalty == 0 and self.frequency_penalty == 0
        return self.repeat_last_n != 0 and not neutral


class Candidates(NamedTuple):
    """Tokens still in the running, by ascending id."""

    ids: np.ndarray  # int64[n]
    logits: np.ndarray  # float[n]


Step = Callable[[Candidates], Candidates]


class Sampler:
    """Draws tokens from logits; remembers the tokens that it is told of, for the penalties."""

    def __init__(self, params: SamplingParams) -> None:
        self.seed = random.SystemRandom().getrandbits(32) if params.seed is None else params.seed
        self._history: deque[int] = deque(maxlen=None if params.repeat_last_n < 0 else params.repeat_last_n)
        self._steps = _chain(params, self._history)
        self._greedy = params.temperature <= 0
        # Python promises this generator's sequence for all time and platforms; NumPy does not promise its own
        self._random = random.Random(self.seed).random
        self._ids = np.arange(0)

    def accept(self, token: int) -> None:
        """Note that the text goes on with this token, be it drawn or part of the prompt."""
        self._history.append(token)

    def sample(self, logits: np.ndarray) -> int:
        """Draw a token, given f32[n_vocab], which is left as it is. Raises ValueError for NaN or infinity."""
        if not math.isfinite(logits.max()):
            raise ValueError("the model's logits are not finite numbers: the file must be damaged")
        if len(self._ids) != len(logits):
            self._ids = np.arange(len(logits))
        candidates = Candidates(self._ids, logits)
        for step in self._steps:
            candidates = step(candidates)
        chosen = np.argmax(candidates.logits) if self._greedy else draw(candidates.logits, self._random())
        return int(candidates.ids[chosen])


def _chain(params: SamplingParams, history: deque[int]) -> list[Step]:
    """The steps that these parameters switch on, in llama.cpp's order."""
    p = params
    steps: list[Step] = []
    if p.logit_bias:
        steps.append(lambda c: bias(c, p.logit_bias))
    if p.penalizes:
        penalty = (p.repeat_penalty, p.presence_penalty, p.frequency_penalty)
        steps.append(lambda c: penalties(c, Counter(history), *penalty))
    if p.temperature <= 0:  # greedy, and no filter removes the likeliest
        return steps
    if p.top_k > 0:
        steps.append(lambda c: top_k(c, p.top_k))
    if p.top_p < 1:
        steps.append(lambda c: top_p(c, p.top_p))
    if p.min_p > 0:
        steps.append(lambda c: min_p(c, p.min_p))
    if p.temperature != 1:
        steps.append(lambda c: temperature(c, p.temperature))
    return steps


def bias(candidates: Candidates, biases: Mapping[int, float]) -> Candidates:
    """Add to the logits of some ids. The candidates must be the whole vocabulary."""
    logits = candidates.logits.copy()
    known = [token for token in biases if 0 <= token < len(logits)]
    logits[known] += [biases[token] for token in known]
    return Candidates(candidates.ids, logits)


def penalties(
    candidates: Candidates, counts: Mapping[int, int], repeat: float, presence: float, frequency: float
) -> Candidates:
    """Make tokens that were seen `counts` times less likely. The candidates must be the whole vocabulary.

    `repeat` divides a positive logit and multiplies a negative one (CTRL, arXiv:1909.05858, minding the sign
    as llama.cpp does); `presence` is subtracted once and `frequency` once per occurrence, as in OpenAI's API.
    """
    logits = candidates.logits.copy()
    seen = [token for token in counts if 0 <= token < len(logits)]
    times = np.array([counts[token] for token in seen], np.float64)
    old = logits[seen].astype(np.float64)
    logits[seen] = np.where(old > 0, old / repeat, old * repeat) - presence - frequency * times
    return Candidates(candidates.ids, logits)


def top_k(candidates: Candidates, k: int) -> Candidates:
    """Keep the k likeliest; of equals, the lowest ids."""
    ids, logits = candidates
    if k >= len(logits):
        return candidates
    groups = len(logits) // _GROUP
    if groups > k:  # the k-th largest maximum of groups: at least k logits reach it, and rarely many more
        maxima = logits[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
        ids, logits = _reaching(candidates, np.partition(maxima, groups - k)[groups - k])
    return _best(Candidates(ids, logits), k, np.partition(logits, len(logits) - k)[len(logits) - k])


def top_p(candidates: Candidates, p: float) -> Candidates:
    """Keep the fewest likeliest whose probabilities add up to p (nucleus sampling, arXiv:1904.09751)."""
    falling = np.sort(candidates.logits)[::-1]
    mass = np.cumsum(np.exp(falling - falling[0], dtype=np.float64))
    n = int(np.searchsorted(mass[:-1], p * mass[-1])) + 1
    return _best(candidates, n, falling[n - 1])


def min_p(candidates: Candidates, p: float) -> Candidates:
    """Keep those at least p times as likely as the likeliest (arXiv:2407.01082)."""
    return _reaching(candidates, candidates.logits.max() + math.log(min(p, 1)))


def temperature(candidates: Candidates, t: float) -> Candidates:
    """Divide the logits by t > 0. They are shifted to end at 0, so that no t is too small."""
    logits = candidates.logits.astype(np.float64)
    return Candidates(candidates.ids, (logits - logits.max()) / t)


def draw(logits: np.ndarray, chance: float) -> int:
    """The index at which the cumulative softmax of the logits passes `chance`, a number in [0, 1)."""
    reach = np.cumsum(np.exp(logits - logits.max(), dtype=np.float64))
    return int(np.searchsorted(reach[:-1], chance * reach[-1], side="right"))


def _reaching(candidates: Candidates, threshold: float) -> Candidates:
    """Those whose logit is not below the threshold."""
    kept = np.flatnonzero(candidates.logits >= threshold)
    return Candidates(candidates.ids[kept], candidates.logits[kept])


def _best(candidates: Candidates, n: int, threshold: float) -> Candidates:
    """The n likeliest, given the n-th largest logit; of those equal to it, the lowest ids."""
    ids, logits = _reaching(candidates, threshold)
    surplus = len(ids) - n
    if surplus > 0:
        last = np.flatnonzero(logits == threshold)[-surplus:]
        ids, logits = np.delete(ids, last), np.delete(logits, last)
    return Candidates(ids, logits)

"""How to choose tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .. import arguments

#: The steps of the chain, in llama.cpp's order.
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens; the defaults are llama.cpp's. Raises ValueError for what has no meaning.

    NumPy's numbers will do, and so will text as the keys of logit_bias.
    """

    temperature: float = 0.8  # 0: always the likeliest token
    dynatemp_range: float = 0.0  # the temperature varies by so much with the entropy; 0: off
    dynatemp_exponent: float = 1.0
    top_k: int = 40  # 0 or less: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.05  # 0: off
    typical_p: float = 1.0  # 1: off
    top_n_sigma: float = -1.0  # 0 or less: off
    xtc_probability: float = 0.0  # 0: off
    xtc_threshold: float = 0.1  # above 0.5: off
    repeat_penalty: float = 1.0  # 1: off
    repeat_last_n: int = 64  # tokens that the penalties look back on; 0: none, -1: all
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75
    dry_allowed_length: int = 2  # repetitions up to one token less are free
    dry_penalty_last_n: int = -1  # tokens that are searched for repetitions; 0: none, -1: all
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")  # no repetition goes past one
    mirostat: int = 0  # 1, 2: that version of it instead of the chain's other steps
    mirostat_tau: float = 5.0  # the surprise to aim at, in bits
    mirostat_eta: float = 0.1  # how fast
    samplers: tuple[str, ...] = SAMPLERS  # the steps of the chain, in this order; what is not named is not done
    json_schema: str | Mapping[str, Any] | bool | None = None  # the answer is JSON of this schema
    grammar: str | None = None  # the answer is in the language of this grammar, in GBNF
    regex: str | None = None  # the answer is what this regular expression matches
    lark: str | None = None  # the same for a grammar in llguidance's notation
    seed: int | None = None  # None, or negative: another one each time
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to a token's logit; -inf forbids it

    def __post_init__(self) -> None:
        for item in fields(self):
            if check := _CHECKS.get(str(item.type)):
                object.__setattr__(self, item.name, check(item.name, getattr(self, item.name)))
        if self.seed is not None and self.seed < 0:
            object.__setattr__(self, "seed", None)
        if self.temperature < 0:
            raise ValueError("temperature must be 0 (always the likeliest token) or more")
        for name in ("top_p", "min_p", "typical_p", "xtc_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")
        if self.repeat_penalty <= 0:
            raise ValueError("repeat_penalty must be above 0")
        for name in ("repeat_last_n", "dry_penalty_last_n"):
            if getattr(self, name) < -1:
                raise ValueError(f"{name} must be -1 (the whole context) or more")
        if self.dry_multiplier and (self.dry_base < 1 or self.dry_allowed_length < 1):
            raise ValueError("dry_base and dry_allowed_length must be 1 or more")
        if self.mirostat not in (0, 1, 2):
            raise ValueError("mirostat must be 0, 1 or 2")
        if sum(grammar is not None for grammar in self._grammars) > 1:
            raise ValueError("json_schema, grammar, regex and lark exclude each other")
        if unknown := set(self.samplers) - set(SAMPLERS):
            raise ValueError(f"{min(unknown)} is not a sampler: there are {', '.join(SAMPLERS)}")

    @property
    def constrains(self) -> bool:
        """Whether the answer has to fit a grammar, which then says where it ends."""
        return any(grammar is not None for grammar in self._grammars)

    @property
    def _grammars(self) -> tuple[object, ...]:
        return self.json_schema, self.grammar, self.regex, self.lark

    @property
    def penalizes(self) -> bool:
        """Whether tokens seen before are treated differently."""
        neutral = self.repeat_penalty == 1 and self.presence_penalty == 0 and self.frequency_penalty == 0
        return self.repeat_last_n != 0 and not neutral


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


#: How a field's value is checked, by its type.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "float": arguments.real,
    "int": arguments.whole,
    "int | None": _or_none(arguments.whole),
    "str | None": _or_none(arguments.text),
    "tuple[str, ...]": arguments.texts,
    "Mapping[int, float]": arguments.biases,
}

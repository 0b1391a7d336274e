"""What callers pass, checked: each function gives the value as it is used, or raises a ValueError that names it."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, of Python's or NumPy's."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    return number


def real(name: str, value: Any) -> float:
    """A finite number."""
    number = _float(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number")
    return number


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r}")
    return value


def path(name: str, value: Any) -> str:
    try:
        return os.fsdecode(value)
    except TypeError:
        raise ValueError(f"{name} must be a path, not {value!r}") from None


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    return tuple(text(f"each of {name}", item) for item in several(name, value))


def several(name: str, value: Any) -> tuple[Any, ...]:
    """A list or the like; text alone would be taken for its letters."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list, not {value!r}")
    return tuple(value)


def objects(name: str, value: Any) -> list[Mapping[str, Any]]:
    """A list of dicts or the like."""
    found = list(several(name, value))
    for item in found:
        if not isinstance(item, Mapping):
            raise ValueError(f"each of {name} must be a dict, not {item!r}")
    return found


def tokens(name: str, value: Any, n_vocab: int) -> list[int]:
    """Token ids of a vocabulary."""
    ids = [whole(f"each of {name}", token) for token in several(name, value)]
    in_vocabulary(name, ids, n_vocab)
    return ids


def biases(name: str, value: Any) -> dict[int, float]:
    """Token id → what is added to its logit; JSON has no keys but text."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must map token ids to numbers, not be {value!r}")
    found = {}
    for key, bias in value.items():
        token = int(key) if isinstance(key, str) and key.strip().isdecimal() else key
        token, amount = whole(f"a token of {name}", token, 0), _float(f"each bias of {name}", bias)
        if math.isnan(amount) or amount == math.inf:
            raise ValueError(f"each bias of {name} must be a finite number, or -inf, not {bias!r}")
        found[token] = amount
    return found


def in_vocabulary(name: str, ids: Iterable[int], n_vocab: int) -> None:
    """Check token ids."""
    for token in ids:
        if not 0 <= token < n_vocab:
            raise ValueError(f"{name}: token {token} is not in the vocabulary, which has {n_vocab}")


def _float(name: str, value: Any) -> float:
    try:
        if not isinstance(value, str | bytes):  # which float() would read
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be a number, not {value!r}")

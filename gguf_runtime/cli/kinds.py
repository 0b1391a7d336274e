"""Kinds of options: numbers, files, and values with a form of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import click

from ..kernels.layout import KV_TYPES
from .command import Decorated

if TYPE_CHECKING:
    from ..engine.layer_split import LayerCount

Decorator = Callable[[Decorated], Decorated]

_MOST = 2**31 - 1  # tokens, threads, layers: what kernels count in 32 bits


def integer(*names: str, at_least: int | None = None, at_most: int | None = None, **settings: Any) -> Decorator:
    """A whole-number option; one that is bounded below counts something, and fits 32 bits."""
    if at_most is not None:
        kind: click.ParamType = click.IntRange(at_least, at_most)
    else:
        kind = Count(at_least) if at_least is not None else click.INT
    return click.option(*names, type=kind, metavar="N", **settings)


def number(*names: str, at_least: float | None = None, **settings: Any) -> Decorator:
    """A floating-point option, of a finite number."""
    kind = FiniteRange(at_least) if at_least is not None else Finite()
    return click.option(*names, type=kind, metavar="X", **settings)


def finite(given: str) -> float:
    """The finite number that a text says. Raises ValueError."""
    if not math.isfinite(found := float(given)):
        raise ValueError(f"{given} is not a finite number")
    return found


def path(*names: str, metavar: str = "FILE", **settings: Any) -> Decorator:
    """An option that names a file."""
    return click.option(*names, type=FileName(), metavar=metavar, **settings)


def text(*names: str, metavar: str = "TEXT", **settings: Any) -> Decorator:
    """An option that takes any text."""
    return click.option(*names, metavar=metavar, **settings)


def flag(*names: str, **settings: Any) -> Decorator:
    """An option that is there or not."""
    return click.option(*names, is_flag=True, **settings)


def cache_type(*names: str, **settings: Any) -> Decorator:
    """An option for a type of the KV cache."""
    return click.option(*names, type=click.Choice(KV_TYPES), **settings)


class FileName(click.Path):
    """A path; one that is empty was meant to be another."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("the name of the file is empty", param, ctx)
        return super().convert(value, param, ctx)


class Count(click.IntRange):
    """A whole number of 32 bits, not below a bound; help shows that one only."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if found > _MOST:
            self.fail(f"{value} is more than {_MOST}", param, ctx)
        return found


class Finite(click.types.FloatParamType):
    """A finite number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not math.isfinite(found := super().convert(value, param, ctx)):
            self.fail(f"{value} is not a finite number", param, ctx)
        return found


class FiniteRange(click.FloatRange, Finite):
    """A finite number, not below a bound."""


class GpuLayers(click.ParamType):
    """A number of layers; "all", or -1, for all; "auto" for as many as fit."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> LayerCount:
        if value in ("all", "auto"):
            return value
        try:
            n = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor all nor auto", param, ctx)
        if not -1 <= n <= _MOST:
            self.fail(f"{value} is no number of layers: 0 or more, or -1 for all", param, ctx)
        return "all" if n < 0 else n


class Bytes(click.ParamType):
    """A number of bytes: 4G, 512M, 1.5G; a bare number is of GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", str(value).lower())
        size = float(match[1]) * 1024 ** ("kmgt".index(match[2] or "g") + 1) if match else 0
        if not 1 <= size < 2**63:
            self.fail(f"{value!r} is no size such as 4G or 512M", param, ctx)
        return int(size)


class Shares(click.ParamType):
    """Numbers, separated by commas or, as llama.cpp also takes them, slashes."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(finite(part) for part in re.split("[,/]", str(value)))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 3,1", param, ctx)


class Range(click.ParamType):
    """N, or MIN..MAX: whole numbers from 1 on."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", str(value))
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            self.fail(f"{value!r} is neither a number of 1 or more nor a range such as 1..4", param, ctx)
        return least, most


class Override(click.ParamType):
    """REGEX=DEVICE; the pattern may contain = too."""

    name = "override"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        pattern, equals, device = str(value).rpartition("=")
        if not equals or not pattern or not device:
            self.fail(f"{value!r} is not REGEX=DEVICE", param, ctx)
        return pattern, device


class Metadata(click.ParamType):
    """KEY=TYPE:VALUE, several separated by commas: {key: value}."""

    name = "metadata"
    _KINDS: ClassVar[dict[str, Callable[[str], Any]]] = {
        "int": int, "float": finite, "str": str, "bool": lambda given: {"true": True, "false": False}[given],
    }  # fmt: skip
    _ITEM = re.compile(r"([^=,]+)=(int|float|bool|str):(.*?)(?=,[^=,]+=(?:int|float|bool|str):|$)", re.DOTALL)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        found, at = {}, 0
        while match := self._ITEM.match(str(value), at):
            key, kind, given = match.groups()
            try:
                found[key] = self._KINDS[kind](given)
            except (ValueError, KeyError):
                self.fail(f"{key}: {given!r} is not of type {kind}", param, ctx)
            at = match.end() + 1
        if at <= len(str(value)):
            self.fail(f"{str(value)[at:]!r} is not KEY=TYPE:VALUE, TYPE being int, float, bool or str", param, ctx)
        return found


class JsonObject(click.ParamType):
    """A JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        import json

        try:
            found = json.loads(value)
        except (ValueError, RecursionError) as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail(f'{value!r} is no JSON object such as {{"name": true}}', param, ctx)
        return found


class Devices(click.ParamType):
    """GPUs by their names, or none: their numbers."""

    name = "devices"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        numbers = []
        for name in str(value).split(","):
            match = re.fullmatch(r"CUDA(\d+)", name, re.IGNORECASE)
            if not match:
                self.fail(f"{name!r} is neither none nor a GPU such as CUDA0; `ggrun devices` shows them", param, ctx)
            numbers.append(int(match[1]))
        if numbers != sorted(set(numbers)):
            self.fail(f"{value}: GPUs are used in their own order, each once", param, ctx)
        return tuple(numbers)

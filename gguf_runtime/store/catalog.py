"""The models that have a short name: models/catalog.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Entry:
    """size: of the files, in GB; memory: with a context of 4096 tokens, in GB."""

    name: str
    source: str
    parameters: str
    architecture: str
    size: float
    memory: float
    license: str
    about: str


@cache
def entries() -> tuple[Entry, ...]:
    text = files("gguf_runtime.models").joinpath("catalog.toml").read_text("utf-8")
    return tuple(Entry(**entry) for entry in tomllib.loads(text)["model"])


def find(name: str) -> Entry | None:
    """The entry of a name, such as llama3.2:1b; without a tag, the first of its family."""
    for entry in entries():
        if name in (entry.name, entry.name.partition(":")[0], entry.name.replace(":", "-")):
            return entry
    return None


def family(name: str) -> list[str]:
    """The names that begin with this one and a tag, the smallest model first; none for a name that is whole."""
    return [entry.name for entry in entries() if entry.name.partition(":")[0] == name]

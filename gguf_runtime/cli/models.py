"""`ggrun pull`, `create`, `list`, `show`, `rm` and `cp`: the models on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..files import expanded
from .command import Command
from .kinds import flag, path
from .options import verbose_option

if TYPE_CHECKING:
    from ..store import StoredModel
    from ..store.modelfile import Modelfile

_CONTEXT = 4096  # tokens that the memory of a model is told for


@click.command(cls=Command, help="Get models by names of the catalogue, hf:OWNER/REPO[:QUANT], ollama:NAME[:TAG], URL.")
@click.argument("names", nargs=-1, required=True)
@verbose_option
def pull(names: tuple[str, ...], verbose: bool) -> None:
    from ..store.names import full_name, update

    for name in map(full_name, names):
        click.echo(f"{name}: {update(name).path}")


@click.command("list", cls=Command, help="List the models on this machine.")
@flag("--catalog", "catalogue", help="Those of the catalogue, with the memory that they need.")
@flag("--json", "as_json", help="As JSON, sizes in bytes.")
@verbose_option
def list_(catalogue: bool, as_json: bool, verbose: bool) -> None:
    if as_json:
        click.echo(json.dumps(list(_catalogue_facts() if catalogue else _listed_facts()), ensure_ascii=False, indent=1))
    else:
        table(_catalogue() if catalogue else _listed())


@click.command(cls=Command, help="Make a model of another one and a Modelfile: settings, a system message, a template.")
@click.argument("name")
@path("-f", "--file", default="Modelfile", help="The Modelfile: FROM, PARAMETER, TEMPLATE, SYSTEM, MESSAGE, LICENSE.")
@verbose_option
def create(name: str, file: str, verbose: bool) -> None:
    from ..store import Store, StoredModel, StoreError, modelfile

    _check_name(name)
    recipe = modelfile.read(Path(file))
    if recipe.template is not None:
        from ..chat.gotemplate import GoTemplateError, to_jinja

        try:
            to_jinja(recipe.template)
        except GoTemplateError as error:
            raise StoreError(f"{file}: TEMPLATE: {error}") from None
    base = _base(recipe.base, Path(file).parent)
    if base.modelfile:
        recipe = recipe.over(modelfile.read(base.modelfile))
    store = Store()
    if (old := store.find(name)) and old.modelfile:
        if old.path == base.path:
            raise StoreError(f"{name} would be made of itself: give it another name")
        store.remove(old)
    made = store.copy(StoredModel(recipe.base, base.files), name, recipe.text())
    click.echo(f"{name}: {made.path}")


@click.command(cls=Command, help="Show what a model is: its file, size, architecture, and the memory that it needs.")
@click.argument("name")
@flag("--modelfile", "as_modelfile", help="As the Modelfile that makes it.")
@verbose_option
def show(name: str, as_modelfile: bool, verbose: bool) -> None:
    from ..loader import open_gguf
    from ..store import find, resolve

    path = resolve(name, pull=False)
    model = None if Path(name).is_file() else find(name)
    if as_modelfile:
        click.echo(_modelfile(model, path).text(), nl=False)
        return
    with open_gguf(path) as file:
        for key, value in _facts(file, path):
            click.echo(f"{key:13} {value}")
    if model:
        click.echo(f"{'place':13} {model.place}")
    if model and model.modelfile:
        recipe = _modelfile(model, path)
        for key, value in [*recipe.parameters, *([("system", recipe.system)] if recipe.system else [])]:
            click.echo(f"{key:13} {value}")


@click.command(cls=Command, help="Remove models that were pulled.")
@click.argument("names", nargs=-1, required=True)
@verbose_option
def rm(names: tuple[str, ...], verbose: bool) -> None:
    from ..store import Store

    for name in names:
        Store().remove(_here(name))


@click.command(cls=Command, help="Give a model another name, or a GGUF file one; nothing takes room twice.")
@click.argument("name")
@click.argument("new_name")
@verbose_option
def cp(name: str, new_name: str, verbose: bool) -> None:
    from ..loader import open_gguf
    from ..store import Store, StoredModel
    from ..store.model import parts

    _check_name(new_name)
    if Path(name).is_file():
        open_gguf(name).close()  # raises GGUFError for something else
        Store().copy(StoredModel(name, parts(Path(name))), new_name)
    else:
        Store().copy(_here(name), new_name)


def _check_name(name: str) -> None:
    """Raises StoreError for what would not be taken for a name."""
    from ..store import StoreError
    from ..store.names import is_path

    if not name or is_path(name) or Path(name).exists():
        raise StoreError(f"{name or 'nothing'} would be taken for a path: choose a name without / and .gguf")


def _base(name: str, folder: Path) -> StoredModel:
    """The model that FROM names, got if need be; a path counts from the Modelfile's folder. Raises StoreError."""
    from ..loader import open_gguf
    from ..store import StoredModel, find, resolve
    from ..store.model import parts
    from ..store.names import is_path

    path = expanded(name)
    path = path if path.is_absolute() else folder / path
    if is_path(name) or path.is_file():
        open_gguf(path).close()  # raises GGUFError for something else
        return StoredModel(name, parts(path))
    path = resolve(name, say=lambda text: click.echo(f"ggrun: {text}", err=True))
    return find(name) or StoredModel(name, parts(path))


def _modelfile(model: StoredModel | None, path: Path) -> Modelfile:
    """What makes a model: of what it was created, or its file."""
    from ..store import modelfile

    if model and model.modelfile:
        return modelfile.read(model.modelfile)
    return modelfile.Modelfile(str(path.resolve()))


def _here(name: str) -> StoredModel:
    """The model of that name on this machine. Raises StoreError."""
    from ..store import StoreError, find

    if model := find(name):
        return model
    raise StoreError(f"no model here is called {name}: `ggrun list` shows those that are")


def _listed_facts() -> Iterator[dict[str, Any]]:
    from ..store import all_models

    for model in all_models():
        yield {
            "name": model.name,
            "size": model.n_bytes,
            "modified": int(model.modified),
            "place": model.place,
            "path": str(model.path),
        }


def _listed() -> Iterator[tuple[str, ...]]:
    from ..store.progress import size

    yield "NAME", "SIZE", "MODIFIED", "PLACE"
    for model in _listed_facts():
        yield model["name"], size(model["size"]), _day(model["modified"]), model["place"]


def _catalogue_facts() -> Iterator[dict[str, Any]]:
    from dataclasses import asdict

    from ..architectures import FAMILIES
    from ..store.catalog import entries

    for entry in entries():
        if entry.architecture in FAMILIES:
            yield asdict(entry) | {"size": round(1e9 * entry.size), "memory": round(1e9 * entry.memory)}


def _catalogue() -> Iterator[tuple[str, ...]]:
    from ..store.progress import size

    yield "NAME", "PARAMETERS", "SIZE", "MEMORY", "LICENSE", "ABOUT"
    for entry in _catalogue_facts():
        sizes = size(entry["size"]), f"{entry['memory'] / 1e9:.1f} GB"
        yield entry["name"], entry["parameters"], *sizes, entry["license"], entry["about"]


def table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows with their columns aligned."""
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

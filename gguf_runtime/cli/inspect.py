"""`ggrun inspect`: what is in a GGUF file, whether or not ggrun can run it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from ..loader import GGUFArray, GGUFFile, open_gguf
from .command import Command
from .loading import model_path
from .options import verbose_option

_SHOWN_ITEMS, _SHOWN_CHARACTERS = 6, 90


@click.command(cls=Command, help="Show the metadata and tensors of a GGUF file.")
@click.argument("file", metavar="MODEL")
@click.option("--json", "as_json", is_flag=True, help="Everything, arrays in full, as one JSON object.")
@verbose_option
def command(file: str, as_json: bool, verbose: bool) -> None:
    with open_gguf(model_path(file)) as opened:
        if as_json:
            click.echo(json.dumps(_contents(opened), ensure_ascii=False, indent=1, default=_plain))
        else:
            for line in _lines(opened):
                click.echo(line)


def describe(file: GGUFFile) -> str:
    """A model in a few words, such as "llama 135M Q4_1": architecture, size, the type of most of its bytes."""
    n = n_params(file)
    size = file.metadata.get("general.size_label") or (f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.0f}M")
    return f"{file.metadata.get('general.architecture', 'unknown')} {size} {_main_type(file)}"


def n_params(file: GGUFFile) -> int:
    """How many weights a file has."""
    return sum(math.prod(tensor.shape) for tensor in file.tensors.values())


def n_bytes(file: GGUFFile) -> int:
    """How many bytes they take."""
    return sum(tensor.n_bytes for tensor in file.tensors.values())


def _main_type(file: GGUFFile) -> str:
    bytes_by_type: Counter[str] = Counter()
    for tensor in file.tensors.values():
        bytes_by_type[tensor.type] += tensor.n_bytes
    return bytes_by_type.most_common(1)[0][0] if bytes_by_type else "without weights"


def _lines(file: GGUFFile) -> Iterator[str]:
    yield f"{file.path}: GGUF {file.version}, {describe(file)}, {n_params(file):,} weights, {n_bytes(file):,} bytes"
    yield f"\n{len(file.metadata)} metadata keys"
    for key, value in file.metadata.items():
        yield f"  {key} = {_short(value)}"
    yield f"\n{len(file.tensors)} tensors"
    for tensor in file.tensors.values():
        yield f"  {tensor.name:40} {tensor.type:8} {' x '.join(map(str, tensor.shape)):>16} {tensor.n_bytes:>14,} bytes"


def _short(value: Any) -> str:
    """A value on one line of bearable length."""
    if isinstance(value, GGUFArray):
        shown = [_short(value[i]) for i in range(min(len(value), _SHOWN_ITEMS))]
        return f"[{', '.join(shown)}{', …' if len(value) > len(shown) else ''}] ({len(value)})"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(value)} characters)"


def _contents(file: GGUFFile) -> dict[str, Any]:
    tensors = [{"name": t.name, "type": t.type, "shape": t.shape, "n_bytes": t.n_bytes} for t in file.tensors.values()]
    return {"path": str(file.path), "version": file.version, "metadata": file.metadata, "tensors": tensors}


def _plain(value: Any) -> list[Any]:
    """Arrays, for JSON."""
    return list(value)

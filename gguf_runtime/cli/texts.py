"""The texts that `ggrun embed` and `ggrun rerank` work on: from arguments, files, and what is piped in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..files import without_mark
from .command import group
from .kinds import path, text
from .loading import take_model
from .prompt import has_prompt, unescaped

text_options = group(
    text("-p", "--prompt", "prompts", multiple=True, help="A text."),
    path("-f", "--file", help="A file, each line of which is a text; -: standard input."),
    path("--texts", help='A JSONL file: a text on each line, or {"text": ..., "id": ...}; -: standard input.'),
)


class Given(NamedTuple):
    """A text; id: the one it came with, or else its number from 1."""

    id: Any
    text: str


def take_model_and_words(options: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Take the model and the words out of a command's options: MODEL is a word where an option names the model."""
    words = list(options.pop("words"))
    name = options.pop("name")
    others = {key: options.pop(key) for key in ("model", "hf_repo", "hf_file", "model_url")}
    if name is not None and any(value is not None for value in others.values()):
        words, name = [name, *words], None
    return take_model({"name": name, **others}), words


def read_texts(words: list[str], options: dict[str, Any]) -> list[Given]:
    """Take text_options out of a command's options, and read all texts. Raises UsageError where there are none."""
    prompts, file, texts = (options.pop(name) for name in ("prompts", "file", "texts"))
    found = [Given(None, word) for word in [*words, *unescaped(prompts, options["escape"])]]
    if not found and file is None and texts is None and has_prompt():
        file = "-"
    if file is not None:
        found += [Given(None, line) for line in _read(file).split("\n") if line.strip()]
    if texts is not None:
        lines = enumerate(_read(texts).split("\n"), 1)
        found += [_from_json(line, number) for number, line in lines if line.strip()]
    if not found:
        raise click.UsageError("no text: give some as arguments, with -f or --texts, or pipe them in")
    return [Given(number if one.id is None else one.id, one.text) for number, one in enumerate(found, 1)]


def _read(file: str) -> str:
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    return without_mark(data).decode("utf-8", "replace").replace("\r\n", "\n")


def _from_json(line: str, number: int) -> Given:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"line {number} of the texts is not JSON: {error}") from None
    value = {"text": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise click.UsageError(f'line {number} of the texts has no "text"')
    if unknown := value.keys() - {"text", "id"}:
        raise click.UsageError(f"line {number} of the texts: unknown {', '.join(sorted(unknown))}")
    return Given(value.get("id"), value["text"])

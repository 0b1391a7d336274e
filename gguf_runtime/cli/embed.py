"""`ggrun embed`: texts as vectors."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..files import replacing
from .command import LlamaCommand, group, section
from .kinds import flag, integer, path, text
from .loading import load
from .options import load_options, model_options, verbose_option
from .progress import progress
from .prompt import escape_option, unescaped
from .texts import Given, read_texts, take_model_and_words, text_options

if TYPE_CHECKING:
    import numpy as np

    from ..llm import LLM

_BLOCK = 1024  # texts whose vectors are written together

embedding_options = group(
    click.option(
        "--pooling", type=click.Choice(["none", "mean", "cls", "last", "rank"]), show_default="as the model has it",
        help="What of its tokens stands for a text; none: each of them for itself.",
    ),
    click.option("--normalize/--no-normalize", default=None, show_default="but with --pooling none",
                 help="Make vectors of length 1."),
    integer("--dimensions", at_least=1, show_default="all", help="Keep the first N numbers (Matryoshka)."),
    text("--prefix", default="", show_default=False, help="What comes before each text, such as 'search_query: '."),
    flag("--truncate", help="Leave out the end of texts that are too long."),
)  # fmt: skip
output_options = group(
    path("-o", "--output", help="Write to a file, once it is whole."),
    click.option("--json", "form", flag_value="json", help="Write one JSON object; that is the default."),
    click.option("--jsonl", "form", flag_value="jsonl", help="Write a JSON object for each text."),
    click.option("--npy", "form", flag_value="npy", help="Write an array of NumPy's, a row for each text."),
)


@click.command(cls=LlamaCommand, help="Show texts as vectors: similar ones for texts of similar meaning.")
@click.argument("name", required=False, type=click.Path(), metavar="[MODEL]")
@click.argument("words", nargs=-1, metavar="[TEXT]...")
@section("Model", model_options)
@section("Texts", text_options, escape_option)
@section("Embedding", embedding_options)
@section("Output", output_options, verbose_option)
@load_options()
def command(output: str | None, form: str | None, verbose: bool, **options: Any) -> None:
    model, words = take_model_and_words(options)
    texts = read_texts(words, options)
    prefix = unescaped(options.pop("prefix"), options.pop("escape"))
    asked = {name: options.pop(name) for name in ("pooling", "normalize", "dimensions", "truncate")}
    if asked["pooling"] == "rank":
        raise click.UsageError("--pooling rank compares texts with a query: `ggrun rerank` does that")
    if form == "npy" and asked["pooling"] == "none" and len(texts) > 1:
        raise click.UsageError("--npy has a row for each text, and --pooling none several: take --jsonl")
    if form == "npy" and output is None and sys.stdout.isatty():
        raise click.UsageError("--npy is not for a terminal: name a file with -o")
    start = perf_counter()
    with load(model, embedding=True, **options) as llm:
        loaded = perf_counter()
        with _open(output) as file:
            _write(file, form or "json", llm, texts, _vectors(llm, texts, prefix=prefix, **asked))
        if verbose:
            seconds, wait = perf_counter() - loaded, loaded - start
            click.echo(f"load {1e3 * wait:.1f} ms, {len(texts)} texts in {seconds:.2f} s", err=True)


def _vectors(
    llm: LLM, texts: list[Given], *, pooling: str | None, normalize: bool | None, dimensions: int | None, **options: Any
) -> Iterator[np.ndarray]:
    """What stands for each text, in their order."""
    with progress(len(texts)) as advance:
        for first in range(0, len(texts), _BLOCK):
            block = [given.text for given in texts[first : first + _BLOCK]]
            options["progress"] = lambda n, first=first: advance(first + n)
            if llm.embedder(pooling).pooling == "none":
                rows = llm.embed_tokens(block, normalize=bool(normalize), **options)
                yield from (each[:, :dimensions] for each in rows)
            else:
                yield from llm.embed(
                    block, pooling=pooling, normalize=normalize is not False, dimensions=dimensions or 0, **options
                )


@contextlib.contextmanager
def _open(output: str | None) -> Iterator[BinaryIO]:
    if output is not None:
        with replacing(output) as file:
            yield file
    else:
        yield sys.stdout.buffer


def _write(file: BinaryIO, form: str, llm: LLM, texts: list[Given], vectors: Iterator[np.ndarray]) -> None:
    if form == "jsonl":
        for given, vector in zip(texts, vectors, strict=True):
            file.write(_line({"id": given.id, "embedding": _numbers(vector)}))
    elif form == "json":
        file.write(_line({"model": llm.name, "embeddings": [_numbers(vector) for vector in vectors]}))
    else:
        import numpy as np

        np.save(file, np.stack(list(vectors)), allow_pickle=False)
    file.flush()


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _numbers(rows: np.ndarray) -> Any:
    """As lists, each number as short as it can be to be the same f32."""
    return [_numbers(row) for row in rows] if rows.ndim > 1 else [float(str(number)) for number in rows]

"""`ggrun rerank`: texts in the order in which they answer a query."""

from __future__ import annotations

import json
from typing import Any

import click

from . import process
from .command import LlamaCommand, section
from .kinds import flag, integer
from .loading import load
from .options import load_options, model_options, verbose_option
from .progress import progress
from .prompt import escape_option
from .texts import read_texts, take_model_and_words, text_options


@click.command(cls=LlamaCommand, help="Show texts in the order in which they answer a query, by a reranker.")
@click.argument("name", required=False, type=click.Path(), metavar="[MODEL]")
@click.argument("words", nargs=-1, metavar="QUERY [TEXT]...")
@section("Model", model_options)
@section("Texts", text_options, escape_option)
@section("Texts", flag("--truncate", help="Leave out the end of texts that are too long."))
@section("Output", integer("-n", "--top-n", at_least=1, show_default="all", help="Show the best N only."))
@section("Output", click.option("--jsonl", is_flag=True, help="Write a JSON object for each: id, score, text."))
@section("Output", verbose_option)
@load_options()
def command(truncate: bool, top_n: int | None, jsonl: bool, verbose: bool, **options: Any) -> None:
    model, words = take_model_and_words(options)
    if not words:
        raise click.UsageError("no query: it comes after the model, and before the texts")
    query, *words = words
    texts = read_texts(words, options)
    options.pop("escape")
    with load(model, embedding=True, **options) as llm, progress(len(texts)) as advance:
        scores = llm.rerank(query, [given.text for given in texts], truncate=truncate, progress=advance)
    for i in (-scores).argsort(kind="stable")[:top_n].tolist():
        score, (id, text) = float(str(scores[i])), texts[i]
        if jsonl:
            click.echo(json.dumps({"id": id, "score": score, "text": text}, ensure_ascii=False))
        else:
            click.echo(f"{score:10.4f}  {process.harmless(text)}")

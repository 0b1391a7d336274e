"""`ggrun tokenize`: the tokens of a text."""

from __future__ import annotations

from typing import Any

import click

from ..loader import open_gguf
from ..tokenizer import Tokenizer
from .command import LlamaCommand
from .loading import model_path, take_model
from .options import model_options, verbose_option
from .prompt import escape_option, prompt_options, read_prompt


@click.command(cls=LlamaCommand, help="Show the tokens of a text.")
@model_options
@prompt_options
@escape_option
@click.option("--ids/--pieces", default=True, help="Their ids on one line, or each with its text.")
@click.option("--no-bos", is_flag=True, help="Add no BOS or EOS token, even if the model wants one.")
@click.option("--no-parse-special", is_flag=True, help="Take the text of special tokens as plain text.")
@verbose_option
def command(
    prompt: str | None,
    file: str | None,
    binary_file: str | None,
    escape: bool,
    ids: bool,
    no_bos: bool,
    no_parse_special: bool,
    verbose: bool,
    **options: Any,
) -> None:
    path = model_path(take_model(options))
    text = read_prompt(prompt, file, binary_file, escape)
    with open_gguf(path) as opened:
        tokenizer = Tokenizer.from_metadata(opened.metadata)
        tokens = tokenizer.encode(text, add_special=not no_bos, parse_special=not no_parse_special)
        if ids:
            click.echo(str(tokens))
        else:
            for token in tokens:
                click.echo(f"{token:6} -> {tokenizer.token_bytes(token).decode('utf-8', 'backslashreplace')!r}")

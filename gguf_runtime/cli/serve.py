"""`ggrun serve`: models over HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from .command import LlamaCommand, section
from .kinds import Bytes, flag, integer, number, path, text
from .loading import FIRST_MODEL, llm_arguments, model_path, take_model
from .options import load_options, model_options, verbose_option

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST_BODY = 32 << 20


@click.command(cls=LlamaCommand, help="Serve models over HTTP: OpenAI's API and others, for many users at once.")
@click.argument("name", required=False, metavar="[MODEL]")
@section("Model", model_options)
@section(
    "Server",
    text("--host", default="127.0.0.1", help="The address to listen at; 0.0.0.0: all of this machine's."),
    integer("--port", at_least=0, default=8080, help="The port; 0: any that is free."),
    text("--api-key", "api_keys", multiple=True, metavar="KEY", help="A key that requests need. Or: GGRUN_API_KEY."),
    text("--cors-origins", default="", show_default="none", help="Web pages that may ask: localhost, *, origins."),
    integer("-np", "--parallel", at_least=1, default=32, help="Answers that a model makes at once."),
    integer("--max-waiting", at_least=0, default=1024, help="Requests that may wait for their turn."),
    click.option("--max-body", type=Bytes(), default=None, metavar="SIZE", show_default="32M", help="Of a request."),
    text("-a", "--alias", "aliases", default="", show_default="none", help="Other names of the model: A,B."),
    flag("--all", "serves_all", help="Serve all models of this machine, each loaded when it is asked for."),
    number("--keep-alive", default=None, help="Seconds for which an unused model stays.", show_default="for ever"),
    click.option(
        "--model-memory", type=Bytes(), metavar="SIZE", show_default="most of what is free",
        help="For all models together.",
    ),
    path("--log", "log_file", help="Where to note requests; -: standard error."),
    text("--chat-template", metavar="NAME", help="Use this template: a name, such as chatml, a file, or Jinja itself."),
)  # fmt: skip
@load_options()
@verbose_option
def command(verbose: bool, **options: Any) -> None:
    for name in ("msgspec", "starlette", "uvicorn"):
        if not find_spec(name):
            raise click.ClickException(f"{name} is missing, which serving takes: pip install 'ggrun[serve]'")
    from ..server.run import serve

    host, port = options.pop("host"), options.pop("port")
    limits: dict[str, Any] = {
        "n_parallel": options.pop("parallel"),
        "n_waiting": options.pop("max_waiting"),
        "keep_alive": options.pop("keep_alive"),
        "budget": options.pop("model_memory") or 0,
        "any_name": options["serves_all"],
    }
    keys = options.pop("api_keys") or tuple(filter(None, os.environ.get("GGRUN_API_KEY", "").split(",")))
    origins = tuple(filter(None, options.pop("cors_origins").split(",")))
    aliases = tuple(filter(None, options.pop("aliases").split(",")))
    serves_all, log_file, max_body = (options.pop(name) for name in ("serves_all", "log_file", "max_body"))
    model = take_model(options)
    models = [] if serves_all and model is None else [(_name(model), model_path(model), aliases)]
    rules = {
        "keys": keys,
        "checks_host": host in _LOOPBACK,
        "origins": origins,
        "max_body": max_body or _MOST_BODY,
        "log": _log(log_file),
    }
    serve(
        models,
        llm_arguments(**options),
        rules,
        host=host,
        port=port,
        say=lambda line: click.echo(f"ggrun: {line}", err=True),
        **limits,
    )


def _name(model: str | None) -> str:
    """What clients call it."""
    if model is None:
        return FIRST_MODEL
    return Path(model).stem if os.path.exists(model) else model


def _log(file: str | None) -> Callable[[str], None] | None:
    if file is None:
        return None
    stream = sys.stderr if file == "-" else open(file, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(line: str) -> None:
        stream.write(line + "\n")

    return write

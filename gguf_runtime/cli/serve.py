"""`ggrun serve`: models over HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from .command import LlamaCommand, section
from .kinds import Bytes, Range, flag, integer, number, path, text
from .loading import FIRST_MODEL, llm_arguments, model_path, take_model
from .options import load_options, model_options, verbose_option

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST_BODY = 32 << 20


@click.command(cls=LlamaCommand, help="Serve models over HTTP: OpenAI's API and others, for many users at once.")
@click.argument("name", required=False, metavar="[MODEL]")
@section("Model", model_options)
@section(
    "Server",
    text("--host", default=None, show_default="127.0.0.1", help="The address to listen at; 0.0.0.0: all."),
    integer(
        "--port", at_least=0, at_most=65535, default=None, show_default="8080", help="The port; 0: any that is free."
    ),
    text("--api-key", "api_keys", multiple=True, metavar="KEY", help="A key that requests need. Or: GGRUN_API_KEY."),
    text("--cors-origins", default="", show_default="none", help="Web pages that may ask: localhost, *, origins."),
    integer("-np", "--parallel", at_least=1, default=32, help="Answers that a model makes at once."),
    integer("--max-waiting", at_least=0, default=1024, help="Requests that may wait for their turn."),
    click.option("--max-body", type=Bytes(), default=None, metavar="SIZE", show_default="32M", help="Of a request."),
    text("-a", "--alias", "aliases", default="", show_default="none", help="Other names of the model: A,B."),
    flag("--all", "serves_all", help="Serve all models of this machine, each loaded when it is asked for."),
    number("--timeout", "max_seconds", default=None, help="Seconds that an answer may take.", show_default="no limit"),
    flag("--ollama", help="In Ollama's place: at OLLAMA_HOST or port 11434, all models, each for 5 minutes."),
    number("--keep-alive", default=None, help="Seconds for which an unused model stays.", show_default="for ever"),
    click.option(
        "--model-memory", type=Bytes(), metavar="SIZE", show_default="most of what is free",
        help="For all models together.",
    ),
    path("--log", "log_file", help="Where to note requests; -: standard error."),
    text("--chat-template", metavar="NAME", help="Use this template: a name, such as chatml, a file, or Jinja itself."),
    flag("--ray", "on_ray", help="Have replicas of the engine on a Ray cluster: that of --ray-address, or a new one."),
    click.option(
        "--replicas", type=Range(), default=None, metavar="N|MIN..MAX", show_default="1",
        help="How many; from MIN to MAX as there is work. With -t, each takes so many CPUs, else a machine.",
    ),
)  # fmt: skip
@load_options()
@verbose_option
def command(verbose: bool, **options: Any) -> None:
    for name in ("msgspec", "starlette", "uvicorn"):
        if not find_spec(name):
            raise click.ClickException(f"{name} is missing, which serving takes: pip install 'ggrun[serve]'")
    from ..server.run import serve

    replicas = _replicas(options)
    ollama = options.pop("ollama")
    host, port = _address(options.pop("host"), options.pop("port"), ollama)
    if ollama:
        options |= {"serves_all": True, "keep_alive": options["keep_alive"] or 300.0}
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
    max_seconds, model = options.pop("max_seconds"), take_model(options)
    models = [] if serves_all and model is None else [_served(model, aliases)]
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
        max_seconds=max_seconds,
        host=host,
        port=port,
        say=lambda line: click.echo(f"ggrun: {line}", err=True),
        replicas=replicas,
        **limits,
    )


def _served(model: str | None, aliases: tuple[str, ...]) -> tuple[str, Path, tuple[str, ...], Path | None]:
    """What clients call it, its file, its other names, and what it was created from."""
    path = model_path(model)
    if model is not None and os.path.exists(model):
        return path.stem, path, aliases, None
    from ..store import find

    name = model or FIRST_MODEL
    found = find(name)
    return name, path, aliases, found.modelfile if found else None


def _replicas(options: dict[str, Any]) -> dict[str, Any] | None:
    """What --ray and its options come to; None without it. Takes its own options out."""
    on_ray, numbers = options.pop("on_ray"), options.pop("replicas")
    if not on_ray:
        if numbers:
            raise click.UsageError("--replicas says how many there are on a Ray cluster: give --ray too")
        return None
    if options["serves_all"] or options["ollama"]:
        raise click.UsageError("--ray serves one model: not with --all or --ollama")
    least, most = numbers or (1, 1)
    on_gpu = options["gpu_layers"] not in ("auto", 0)
    cpus = max(options["threads"], 0)
    return {"least": least, "most": most, "cpus": cpus, "gpus": int(on_gpu), "address": options["ray_address"]}


def _address(host: str | None, port: int | None, ollama: bool) -> tuple[str, int]:
    """Where to listen."""
    if not ollama:
        return host or "127.0.0.1", 8080 if port is None else port
    named = os.environ.get("OLLAMA_HOST", "").rpartition("://")[2].rstrip("/")
    found = urlsplit(f"//{named}")
    return host or found.hostname or "127.0.0.1", port if port is not None else found.port or 11434


def _log(file: str | None) -> Callable[[str], None] | None:
    if file is None:
        return None
    stream = sys.stderr if file == "-" else open(file, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(line: str) -> None:
        stream.write(line + "\n")

    return write

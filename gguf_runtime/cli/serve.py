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
from click.core import ParameterSource

from ..files import read_text
from .answers import sampling_options, take_dialogue
from .command import ServerCommand, group, section
from .kinds import Bytes, Range, flag, integer, number, path, text
from .loading import FIRST_MODEL, llm_arguments, model_path, take_model
from .options import (
    answer_options,
    draft_options,
    load_options,
    model_options,
    reasoning_options,
    template_options,
    verbose_option,
)
from .prompt import escape_option, unescaped

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST_BODY = 32 << 20
_ANSWERS, _SAMPLING = "Answers, unless a request says otherwise", "Sampling, unless a request says otherwise"

server_options = group(
    text("--host", default=None, show_default="127.0.0.1", help="The address to listen at, or A,B; 0.0.0.0: all."),
    integer(
        "--port", at_least=0, at_most=65535, default=None, show_default="8080", help="The port; 0: any that is free."
    ),
    text("--api-prefix", default="", show_default=False, metavar="/PATH", help="What all paths begin with."),
    text("--api-key", "api_keys", multiple=True, metavar="KEY", help="A key that requests need. Or: GGRUN_API_KEY."),
    path("--api-key-file", help="The same, in a file: a key a line."),
    text("--cors-origins", default="", show_default="none", help="Web pages that may ask: localhost, *, origins."),
    integer("-np", "--parallel", at_least=1, default=32, help="Answers that a model makes at once."),
    integer("--max-waiting", at_least=0, default=1024, help="Requests that may wait for their turn."),
    click.option("--max-body", type=Bytes(), default=None, metavar="SIZE", show_default="32M", help="Of a request."),
    number("--timeout", "max_seconds", default=None, help="Seconds that an answer may take.", show_default="no limit"),
    flag("--ollama", help="In Ollama's place: at OLLAMA_HOST or port 11434, all models, each for 5 minutes."),
    path("--log", "log_file", help="Where to note requests; -: standard error."),
    click.option("--ui/--no-ui", "--webui/--no-webui", "page", default=True, help="The web chat at /."),
    click.option("--slots/--no-slots", default=True, help="What is being answered, at /slots."),
    click.option("--metrics/--no-metrics", default=True, help="Prometheus' figures, at /metrics."),
)
served_options = group(
    text("-a", "--alias", "aliases", default="", show_default="none",
         help="Names of the model, A,B: it is listed by the first; *: it answers to any."),
    text("--tags", default="", show_default="none", help="What to list with the model: A,B."),
    flag("--all", "serves_all", help="Serve all models of this machine, each loaded when it is asked for."),
    number("--keep-alive", "--sleep-idle-seconds", "keep_alive", default=None, show_default="for ever",
           help="Seconds for which an unused model stays."),
    click.option(
        "--model-memory", type=Bytes(), metavar="SIZE", show_default="most of what is free",
        help="For all models together.",
    ),
    integer("--models-max", at_least=0, default=0, help="Models in memory at once; 0: as many as fit."),
    click.option("--models-autoload/--no-models-autoload", default=True,
                 help="Load a model that is asked for, or only by /models/load."),
    click.option("--pooling", type=click.Choice(["none", "mean", "cls", "last", "rank"]),
                 show_default="as the model has it", help="What of its tokens stands for a text to embed."),
    flag("--ray", "on_ray", help="Have replicas of the engine on a Ray cluster: that of --ray-address, or a new one."),
    click.option(
        "--replicas", type=Range(), default=None, metavar="N|MIN..MAX", show_default="1",
        help="How many; from MIN to MAX as there is work. With -t, each takes so many CPUs, else a machine.",
    ),
)  # fmt: skip


@click.command(cls=ServerCommand, help="Serve models over HTTP: OpenAI's API and others, for many users at once.")
@click.argument("name", required=False, metavar="[MODEL]")
@section("Model", model_options, draft_options, served_options)
@section("Server", server_options)
@section(_ANSWERS, answer_options, template_options, escape_option, reasoning_options)
@section(_SAMPLING, sampling_options)
@load_options()
@verbose_option
@click.pass_context
def command(ctx: click.Context, verbose: bool, **options: Any) -> None:
    for name in ("msgspec", "starlette", "uvicorn"):
        if not find_spec(name):
            raise click.ClickException(f"{name} is missing, which serving takes: pip install 'ggrun[serve]'")
    from ..server.run import serve

    replicas = _replicas(options)
    ollama = options.pop("ollama")
    hosts, port = _address(options.pop("host"), options.pop("port"), ollama)
    if ollama:
        options |= {"serves_all": True, "keep_alive": options["keep_alive"] or 300.0}
    policy = {**_policy(ctx, options), "tells_prompts": verbose}
    limits: dict[str, Any] = {
        "n_parallel": options.pop("parallel"),
        "n_waiting": options.pop("max_waiting"),
        "keep_alive": options.pop("keep_alive"),
        "budget": options.pop("model_memory") or 0,
        "n_most": options.pop("models_max"),
        "loads": options.pop("models_autoload"),
        "any_name": options["serves_all"],
    }
    rules = {
        "keys": _keys(options),
        "checks_host": all(host in _LOOPBACK for host in hosts),
        "origins": _names(options.pop("cors_origins")),
        "prefix": options.pop("api_prefix").rstrip("/"),
        "max_body": options.pop("max_body") or _MOST_BODY,
        "log": _log(options.pop("log_file")),
    }
    aliases, serves_all, model = _names(options.pop("aliases")), options.pop("serves_all"), take_model(options)
    serve(
        [] if serves_all and model is None else [_served(model, aliases)],
        llm_arguments(**options),
        rules,
        policy=policy,
        hosts=hosts,
        port=port,
        say=lambda line: click.echo(f"ggrun: {line}", err=True),
        replicas=replicas,
        **limits,
    )


def _policy(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Take what becomes of all requests out of the options. Raises UsageError."""
    answer = {name: options.pop(name) for name in _names_in(ctx, _ANSWERS)}
    sampling = {name: options.pop(name) for name in _names_in(ctx, _SAMPLING)}
    given = {name: sampling[name] for name in sampling if ctx.get_parameter_source(name) != ParameterSource.DEFAULT}
    if given:  # else NumPy would be loaded for nothing
        from ..sampling import SamplingParams

        try:
            SamplingParams(**given)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if answer["reasoning_budget_message"]:
        raise click.UsageError("--reasoning-budget-message is an option of `ggrun run`, not of `ggrun serve`")
    budget, form = answer["reasoning_budget"], answer["reasoning_format"]
    if form == "deepseek-legacy":
        raise click.UsageError("--reasoning-format: thoughts are told apart (deepseek) or left where they are (none)")
    own: dict[str, Any] = {"system": None, "system_file": None, "dry_sequence_breakers": ()}
    dialogue = take_dialogue(answer | own)
    options["chat_template"] = dialogue.template
    return {
        "max_seconds": options.pop("max_seconds"),
        "max_tokens": answer["predict"] if answer["predict"] >= 0 else None,
        "sampling": given,
        "options": {"n_keep": answer["keep"], "context_shift": answer["context_shift"], "lookup": answer["lookup"]},
        "stop": unescaped(answer["stop"], answer["escape"]),
        "ignore_eos": answer["ignore_eos"],
        "template": dialogue.variables,
        "max_thought": budget if budget >= 0 else None,
        "splits_thoughts": form != "none",
        "tags": _names(options.pop("tags")),
        **{name: options.pop(name) for name in ("pooling", "slots", "metrics", "page")},
    }


def _names_in(ctx: click.Context, title: str) -> list[str]:
    """The options that stand under a title of `--help`."""
    return [str(option.name) for option in ctx.command.params if getattr(option, "section", "") == title]


def _names(listed: str) -> tuple[str, ...]:
    """A,B."""
    return tuple(filter(None, map(str.strip, listed.split(","))))


def _keys(options: dict[str, Any]) -> tuple[str, ...]:
    """Of --api-key and --api-key-file, or of the environment. Raises UsageError, OSError."""
    keys = [key for given in options.pop("api_keys") for key in _names(given)]
    if (file := options.pop("api_key_file")) is not None:
        found = list(filter(None, map(str.strip, read_text(file).splitlines())))
        if not found:
            raise click.UsageError(f"--api-key-file: {file} has no key in it")
        keys += found
    return tuple(keys) or _names(os.environ.get("GGRUN_API_KEY", ""))


def _served(model: str | None, aliases: tuple[str, ...]) -> tuple[str, Path, tuple[str, ...], Path | None]:
    """What it is called, its file, its other names, and what it was created from."""
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


def _address(host: str | None, port: int | None, ollama: bool) -> tuple[tuple[str, ...], int]:
    """Where to listen."""
    if not ollama:
        return _names(host or "") or ("127.0.0.1",), 8080 if port is None else port
    named = os.environ.get("OLLAMA_HOST", "").rpartition("://")[2].rstrip("/")
    found = urlsplit(f"//{named}")
    return _names(host or found.hostname or "127.0.0.1"), port if port is not None else found.port or 11434


def _log(file: str | None) -> Callable[[str], None] | None:
    if file is None:
        return None
    stream = sys.stderr if file == "-" else open(file, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(line: str) -> None:
        stream.write(line + "\n")

    return write

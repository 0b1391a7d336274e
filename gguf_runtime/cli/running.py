"""`ggrun ps` and `ggrun stop`: the models that a running server has in memory."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from .command import Command
from .kinds import flag, text
from .options import verbose_option

_URL = "http://127.0.0.1:8080"
_url_option = text("--url", default=None, metavar="URL", show_default=f"GGRUN_HOST, or {_URL}", help="Of the server.")


@click.command(cls=Command, help="Show the models that a server has in memory.")
@_url_option
@verbose_option
def ps(url: str | None, verbose: bool) -> None:
    from .models import table

    loaded = [model for model in _ask(url, "GET", "/models")["data"] if model["status"]["value"] != "unloaded"]
    rows = [("NAME", "SIZE", "CONTEXT", "REQUESTS", "UNTIL")]
    for model in loaded:
        rows.append((model["id"], _size(model), str(model.get("n_ctx", "")), str(model["n_users"]), _until(model)))
    table(rows)


@click.command(cls=Command, help="Have a server unload models.")
@click.argument("names", nargs=-1)
@flag("--all", "all_of_them", help="All that it has loaded.")
@_url_option
@verbose_option
def stop(names: tuple[str, ...], all_of_them: bool, url: str | None, verbose: bool) -> None:
    if not names and not all_of_them:
        raise click.UsageError("name a model, or take --all")
    if all_of_them:
        models = _ask(url, "GET", "/models")["data"]
        names = tuple(model["id"] for model in models if model["status"]["value"] == "loaded")
    for name in names:
        _ask(url, "POST", "/models/unload", {"model": name})


def _size(model: dict[str, Any]) -> str:
    from ..store.progress import size

    return size(model["size"]) if "size" in model else ""


def _until(model: dict[str, Any]) -> str:
    if model["status"]["value"] == "loading":
        return "loading"
    expires = model.get("expires_at")
    return f"{datetime.fromtimestamp(expires):%H:%M:%S}" if expires else ""


def _ask(url: str | None, method: str, path: str, body: Any = None) -> Any:
    """What the server says. Raises ClickException."""
    base = (url or os.environ.get("GGRUN_HOST") or _URL).rstrip("/")
    base = base if "://" in base else f"http://{base}"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("GGRUN_API_KEY", "").partition(",")[0]:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(base + path, data, headers, method=method), timeout=30) as response:
            return json.load(response)
    except HTTPError as error:
        raise click.ClickException(_told(error)) from None
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)  # often an OSError, with a number that says nothing
        reason = getattr(reason, "strerror", None) or reason
        raise click.ClickException(f"no server answers at {base}: {reason}; start one with `ggrun serve`") from None


def _told(error: HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server says {error.code} {error.reason}"

"""The HTTP process begins: a socket, an engine on its way, and then all that speaks HTTP."""

from __future__ import annotations

import asyncio
import importlib
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import ray_cluster
from .models import Models
from .policy import Policy

_TURN = 0.001  # seconds for which a thread that makes tokens of a prompt may keep the event loop waiting


def serve(
    models: list[tuple[str, Path, tuple[str, ...], Path | None]],
    settings: dict[str, Any],
    rules: dict[str, Any],
    *,
    policy: dict[str, Any],
    hosts: Sequence[str],
    port: int,
    say: Callable[[str], None],
    replicas: dict[str, Any] | None = None,
    **limits: Any,
) -> None:
    """Serve until a signal comes. models: name, file, other names, Modelfile; rules: arguments of guard.Rules;
    policy: fields of Policy; replicas: arguments of Replicas, where engines are to be on a Ray cluster; limits: of
    Models.

    Raises OSError where the address cannot be listened at, or a model's file not be read, GGUFError where that is
    damaged, ModelError where its architecture is not supported, ClusterError where there is no Ray cluster.
    """

    async def run() -> None:
        on_ray = await _on_ray(replicas) if replicas else {}
        known = Models(settings, say=say, **on_ray, **limits)
        for name, path, aliases, modelfile in models:
            known.add(name, str(path), aliases, modelfile)
        for model in list(known)[:1]:
            known.default = model
            known.preload(model)
        # the engine starts while the file is checked and the rest is imported
        for model in known:
            await asyncio.to_thread(_check, model.path, settings)
        for host, listener in zip(hosts, listeners, strict=True):
            say(f"listening at http://{_named(host)}:{listener.getsockname()[1]}")
        module = await asyncio.to_thread(importlib.import_module, ".http_server", __package__)
        await module.serve(known, rules, Policy(**policy), listeners, say)

    sys.setswitchinterval(_TURN)
    listeners = [_listen(host, port) for host in hosts]
    signal.set_wakeup_fd(-1)  # takes the command line's own handling of signals out of service
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # until the server hears them itself
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_DFL)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run())
    if replicas:
        ray_cluster.leave()


async def _on_ray(replicas: dict[str, Any]) -> dict[str, Any]:
    """Arguments of Models for engines on a cluster, which is joined. Raises ClusterError."""
    from .ray_engine import RayEngine, Replicas

    await asyncio.to_thread(ray_cluster.join, replicas["address"])
    wanted = Replicas(**replicas)
    return {"start": partial(RayEngine.start, wanted), "n_engines": wanted.most}


def _check(path: str, settings: dict[str, Any]) -> None:
    """See whether a model can be loaded, as far as its file's header tells. Raises OSError, GGUFError, ModelError."""
    from .. import architectures
    from ..loader import open_gguf, override

    file = open_gguf(path)
    file.metadata = override(file.metadata, settings.get("metadata") or {})
    architectures.load(file, settings.get("n_ctx") or 0)


def _listen(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{_named(host)}:{port}") from None


def _named(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it is not made for Windows
        return None
    return uvloop.new_event_loop

"""The HTTP process: listens, serves, and ends in good order."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from .app import application
from .guard import Rules
from .models import Models

_PATIENCE = 30  # seconds that answers under way have when the server is to end


class _Server(uvicorn.Server):
    """uvicorn's, which does not look ten times a second whether it shall end, but waits to be told."""

    def __init__(self, config: uvicorn.Config, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._end, self._say = asyncio.Event(), say

    async def main_loop(self) -> None:
        loop = asyncio.get_running_loop()
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if number := getattr(signal, name, None):
                self._on_signal(loop, number)
        await self._end.wait()

    def _on_signal(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        if sys.platform != "win32":
            loop.add_signal_handler(number, self._stop)
        else:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop))

    def _stop(self) -> None:
        if self._end.is_set():  # asked twice
            self.force_exit = True
            for task in self.server_state.tasks:
                task.cancel()
        else:
            self._say("ending, once what is under way is done; again: at once")
        self.should_exit = True
        self._end.set()


def serve(
    models: list[tuple[str, Path, tuple[str, ...]]],
    settings: dict[str, Any],
    rules: Rules,
    *,
    host: str,
    port: int,
    say: Callable[[str], None],
    **limits: Any,
) -> None:
    """Serve until a signal comes. models: name, file, other names; limits: of Models."""

    async def run() -> None:
        known = Models(settings, say=say, **limits)
        for name, path, aliases in models:
            known.add(name, str(path), (*aliases, path.name))

        def begin() -> None:
            for model in list(known)[:1]:
                known.preload(model)

        config = uvicorn.Config(
            application(known, rules, begin),
            host=host, port=port, log_config=None, access_log=False, server_header=False, date_header=False,
            timeout_graceful_shutdown=_PATIENCE, lifespan="on", ws="none", h11_max_incomplete_event_size=1 << 16,
            proxy_headers=False,
        )  # fmt: skip
        server = _Server(config, say)
        say(f"listening at http://{host}:{port}")
        await server._serve()

    signal.set_wakeup_fd(-1)  # takes the command line's own handling of signals out of service
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it is not made for Windows
        return None
    return uvloop.new_event_loop

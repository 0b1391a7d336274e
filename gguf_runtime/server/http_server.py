"""uvicorn, with an end of our own and nothing that polls."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from .app import application
from .guard import AccessRules
from .models import Models
from .policy import Policy

_PATIENCE = 30  # seconds that answers under way have when the server is to end


async def serve(
    models: Models,
    rules: dict[str, Any],
    policy: Policy,
    listeners: list[socket.socket],
    say: Callable[[str], None],
) -> None:
    """Serve until a signal comes. rules: arguments of Rules."""
    config = uvicorn.Config(
        application(models, AccessRules(**rules), policy),
        log_config=None, access_log=False, server_header=False, date_header=False, proxy_headers=False,
        timeout_graceful_shutdown=_PATIENCE, lifespan="on", ws="none",
    )  # fmt: skip
    await _Server(config, say)._serve(listeners)


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

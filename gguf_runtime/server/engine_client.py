"""The HTTP process's end of an engine process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, cast

from .engine import Engine
from .protocol import (
    LENGTH,
    Cancel,
    Embedded,
    EmbedTexts,
    EngineCommand,
    Failed,
    Generate,
    Load,
    Loaded,
    Output,
    Report,
    StepReport,
    decode_report,
    framed,
)
from .vocabulary import Failure

_LINE = [sys.executable, "-P", "-m", "gguf_runtime.server.engine_process"]
_GRACE = 5  # seconds that an engine has to end by itself


class EngineClient(asyncio.SubprocessProtocol):
    """Sends requests to an engine and hands its reports out, each step's in one go.

    loaded: what it said when it was ready. on_step: is called with each step; on_death: once, if the process ends
    without having been told to.
    """

    def __init__(self, on_step: Callable[[StepReport], None], on_death: Callable[[Engine], None]) -> None:
        self.loaded: Loaded | None = None
        self._on_step, self._on_death = on_step, on_death
        self._received = bytearray()
        self._ready: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._stopping = False
        self._last = 0
        self._receivers: dict[int, Callable[[Any], None]] = {}

    @classmethod
    async def start(
        cls,
        path: str,
        settings: dict[str, Any],
        n_parallel: int,
        *,
        on_step: Callable[[StepReport], None],
        on_death: Callable[[Engine], None],
    ) -> EngineClient:
        """A process that has the model loaded. Raises Failure."""
        loop = asyncio.get_running_loop()
        # a session of its own: a terminal's Ctrl-C is for this process, which says when the engine is to end
        _, engine = await loop.subprocess_exec(
            lambda: cls(on_step, on_death), *_LINE, stderr=None, start_new_session=True
        )
        try:
            engine._send(Load(path, settings, n_parallel))
            engine.loaded = await engine._ready
        except BaseException:
            await engine.stop()
            raise
        return engine

    @property
    def pid(self) -> int:
        return int(self._transport.get_pid() or 0)

    def generate(self, receive: Callable[[Output | Failed], None], *request: Any) -> int:
        """Have an answer made (protocol.Generate); `receive` gets what comes of it. Gives its id."""
        return self._ask(receive, Generate, *request)

    def embed(self, receive: Callable[[Embedded | Failed], None], *request: Any) -> int:
        """Have texts embedded or ranked (protocol.EmbedTexts)."""
        return self._ask(receive, EmbedTexts, *request)

    def cancel(self, id: int) -> None:
        """Give up what was asked for."""
        if self._receivers.pop(id, None):
            self._send(Cancel(id))

    async def stop(self) -> None:
        """End the process."""
        self._stopping = True
        self._pipe.close()
        try:
            async with asyncio.timeout(_GRACE):
                await self._ended.wait()
        except TimeoutError:
            self._transport.kill()
            await self._ended.wait()
        self._transport.close()

    def _ask(self, receive: Callable[[Any], None], command: type[Generate | EmbedTexts], *fields: Any) -> int:
        self._last += 1
        self._receivers[self._last] = receive
        self._send(command(self._last, *fields))
        return self._last

    def _send(self, command: EngineCommand) -> None:
        if not self._pipe.is_closing():
            self._pipe.write(framed(command))

    # of SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's is one only in what it does
        self._pipe = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        received, at = self._received, 0
        received += data
        while len(received) >= at + LENGTH.size:
            (n,) = LENGTH.unpack_from(received, at)
            end = at + LENGTH.size + n
            if len(received) < end:
                break
            self._take(decode_report(memoryview(received)[at + LENGTH.size : end].toreadonly()))
            at = end
        del received[:at]

    def process_exited(self) -> None:
        self._ended.set()
        code = self._transport.get_returncode()
        how = f"signal {-code}" if code is not None and code < 0 else f"code {code}"
        if not self._ready.done():
            self._ready.set_exception(Failure("failed", f"the engine's process ended while loading ({how})"))
        message = "the model has been unloaded"
        if not self._stopping:
            message = f"the engine's process ended unexpectedly ({how}); it is being started again"
            if self.loaded:
                self._on_death(self)
        receivers, self._receivers = self._receivers, {}
        for id, receive in receivers.items():
            receive(Failed(id, message, "failed"))

    def _take(self, report: Report) -> None:
        if isinstance(report, StepReport):
            for output in report.outputs:
                receive = self._receivers.pop if output.ended else self._receivers.get
                if found := receive(output.id, None):
                    found(output)
            self._on_step(report)
        elif isinstance(report, Loaded) or report.id is None:
            if self._ready.done():
                return  # nobody waits any more
            if isinstance(report, Loaded):
                self._ready.set_result(report)
            else:
                self._ready.set_exception(Failure("failed", report.message))
        elif found := self._receivers.pop(report.id, None):
            found(report)

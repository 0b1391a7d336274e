"""A replica of a model's engine, on one of a Ray cluster's machines: an engine process, and this one, which Ray Serve
starts, asks, watches and ends."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NoReturn

from msgspec import Struct, msgpack
from ray import get_runtime_context, serve

from .engine import Engine
from .engine_client import EngineClient
from .protocol import Embedded, EmbedTexts, Failed, Generate, Loaded, Output, StepReport
from .vocabulary import Failure

_MESSAGE = 0.002  # seconds between messages of one answer, for each that is made: Ray takes about half a millisecond
_SILENCE = 600  # seconds for which an engine may be at work on a step


class News(Struct, array_like=True):
    """What has come of a request. steps: that the replica has taken since it last told of any, without their outputs.
    end: where it is no Output that ends it."""

    replica: str
    outputs: list[Output]
    steps: list[StepReport]
    end: Embedded | Failed | None = None


encode = msgpack.Encoder().encode
decode = msgpack.Decoder(News).decode


class Replica:
    """Has an engine answer requests. It dies with its engine: Ray tells clients, and starts another."""

    async def __init__(self, path: str, settings: dict[str, Any], n_parallel: int) -> None:  # type: ignore[misc]
        """As Load has them. Raises RuntimeError where the model cannot be loaded."""
        self._name = serve.get_replica_context().replica_id.unique_id
        self._steps: list[StepReport] = []
        self._n_running, self._heard = 0, 0.0
        if settings.get("ray_stages"):
            settings["ray_address"] = get_runtime_context().gcs_address  # the engine's process asks for its stages
        try:
            self._engine = await EngineClient.start(path, settings, n_parallel, on_step=self._note, on_death=_die)
        except Failure as failure:
            raise RuntimeError(failure.message) from None

    async def loaded(self) -> Loaded | None:
        """What the engine said when it was ready."""
        return self._engine.loaded

    async def ask(self, command: Generate | EmbedTexts) -> AsyncIterator[bytes]:
        """News of a request as they come, encoded; what comes while others are on their way goes together."""
        outputs: list[Output] = []
        end: Embedded | Failed | None = None
        news, ended = asyncio.Event(), asyncio.Event()

        def receive(report: Output | Embedded | Failed) -> None:
            nonlocal end
            if isinstance(report, Output):
                outputs.append(report)
            else:
                end = report
            news.set()
            if not isinstance(report, Output) or report.ended:
                ended.set()

        _, *fields = (getattr(command, name) for name in command.__struct_fields__)
        begin = self._engine.generate if isinstance(command, Generate) else self._engine.embed
        self._heard = time.monotonic() if not self._n_running else self._heard
        self._n_running += 1
        id = begin(receive, *fields)
        try:
            is_last = False
            while not is_last:
                await news.wait()
                news.clear()
                is_last = ended.is_set()
                message = encode(News(self._name, outputs, self._steps, end))
                outputs.clear()
                self._steps.clear()
                yield message
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), _MESSAGE * self._n_running)
        finally:
            self._n_running -= 1
            self._engine.cancel(id)  # does nothing to what is done

    def check_health(self) -> None:
        """Ray asks. Raises RuntimeError where the engine does not go on."""
        if self._n_running and time.monotonic() - self._heard > _SILENCE:
            raise RuntimeError(f"the engine has been at work on a step for more than {_SILENCE} seconds")

    def _note(self, step: StepReport) -> None:
        self._heard = time.monotonic()
        step.outputs = []
        self._steps.append(step)


def _die(engine: Engine) -> NoReturn:
    os._exit(1)

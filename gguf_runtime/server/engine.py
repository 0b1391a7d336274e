"""What the server asks of a model's engine, wherever that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .protocol import Embedded, Failed, Loaded, Output, StepReport

TRIES = 3  # how often something is asked for that was lost on the way, with the engine that had it


class Engine(Protocol):
    """Takes requests, and calls who asked with what comes of them.

    loaded: what it said when it was ready.
    """

    loaded: Loaded | None

    def generate(self, receive: Callable[[Output | Failed], None], *request: Any) -> int:
        """Have an answer made (protocol.Generate); `receive` gets what comes of it. Gives its id."""

    def embed(self, receive: Callable[[Embedded | Failed], None], *request: Any) -> int:
        """Have texts embedded or ranked (protocol.Embed)."""

    def cancel(self, id: int) -> None:
        """Give up what was asked for."""

    async def stop(self) -> None:
        """End it."""


class Start(Protocol):
    """Starts an engine that has a model loaded."""

    async def __call__(
        self,
        path: str,
        settings: dict[str, Any],
        n_parallel: int,
        *,
        on_step: Callable[[StepReport], None],
        on_death: Callable[[Engine], None],
    ) -> Engine:
        """settings: arguments of LLM. n_parallel: answers that are made at once. on_step: is called with each step;
        on_death: once, if the engine ends without having been told to. Raises Failure."""

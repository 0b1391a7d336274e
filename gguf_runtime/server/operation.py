"""Routes for whoever runs the server: whether it is well, and what it does."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from .openai import API
from .vocabulary import Failure
from .web import Call, routes


async def health(call: Call) -> Any:
    if any(model.state == "loading" for model in call.service.models) and not any(
        model.state == "loaded" for model in call.service.models
    ):
        raise Failure("loading", "Loading model", code=503)
    return {"status": "ok"}


def all_routes() -> list[Route]:
    return routes(API, {"/health": health, "/v1/health": health}, ("GET",))

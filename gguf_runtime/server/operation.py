"""Routes for whoever runs the server: whether it is well, and what it does."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from .http import ApiCall, routes
from .llama_server import API
from .vocabulary import Failure


async def health(call: ApiCall) -> Any:
    if any(model.state == "loading" for model in call.service.models) and not any(
        model.state == "loaded" for model in call.service.models
    ):
        raise Failure("loading", "Loading model", code=503)
    return {"status": "ok"}


async def metrics(call: ApiCall) -> Response:
    if not call.service.policy.metrics:
        raise Failure("unsupported", "the server was started with --no-metrics")
    headers = {"Process-Start-Time-Unix": str(call.service.started)}
    return Response(call.service.metrics.text(), 200, headers, "text/plain; version=0.0.4; charset=utf-8")


def all_routes() -> list[Route]:
    return routes(API, {"/health": health, "/v1/health": health, "/metrics": metrics}, ("GET",))

"""llama-server's own API: models that are loaded and unloaded."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.routing import Route

from .models import Model
from .openai import API
from .web import Call, routes


async def list_models(call: Call) -> Any:
    known = await asyncio.to_thread(call.service.models.all)
    return {"object": "list", "data": [_status(model) for model in known]}


async def load(call: Call) -> Any:
    model = _named(call)
    await call.service.models.acquire(model)
    call.service.models.release(model)
    return {"success": True}


async def unload(call: Call) -> Any:
    await call.service.models.unload(_named(call))
    return {"success": True}


def _named(call: Call) -> Model:
    return call.service.models.find(call.body.required(call.body.text("model"), "model"))


def _status(model: Model) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": model.name, "object": "model", "path": model.path, "n_users": model.n_users}
    facts["status"] = {"value": model.state, **({"error": model.error.message} if model.error else {})}
    if model.state == "loaded":
        facts |= {"n_ctx": model.n_ctx, "size": model.texts.n_bytes, "expires_at": model.expires}
    return facts


def all_routes() -> list[Route]:
    return [
        *routes(API, {"/models": list_models}, ("GET",)),
        *routes(API, {"/models/load": load, "/models/unload": unload}),
    ]

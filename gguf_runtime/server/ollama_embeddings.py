"""Ollama's API: embeddings."""

from __future__ import annotations

import time
from typing import Any

from starlette.routing import Route

from .embeddings import Embeddings, embed
from .http import ApiCall, routes
from .ollama import API, asked_model, load, seconds, shown
from .vocabulary import EmbeddingRequest


async def embed_texts(call: ApiCall) -> Any:
    body, start = call.body, time.monotonic()
    texts = body.texts("input")
    if not texts:
        return await load(call, asked_model(call), {"embeddings": []})
    options: dict[str, Any] = {"truncate": body.flag("truncate") is not False}
    if dimensions := body.whole("dimensions", least=0):
        options["dimensions"] = dimensions
    made = await _embedded(call, texts, options)
    return {
        "model": shown(made.model.name),
        "embeddings": await made.vectors(),
        "total_duration": int(1e9 * (time.monotonic() - start)),
        "load_duration": int(1e9 * made.timings.load_seconds),
        "prompt_eval_count": made.timings.n_prompt,
    }


async def embed_prompt(call: ApiCall) -> Any:
    """The older one, of a single text, whose vector has the length that the model gives it."""
    prompt = call.body.text("prompt")
    if not prompt:
        return await load(call, asked_model(call), {"embedding": []})
    (vector,) = await (await _embedded(call, [prompt], {"truncate": True, "normalize": False})).vectors()
    return {"embedding": vector}


async def _embedded(call: ApiCall, texts: list[str], options: dict[str, Any]) -> Embeddings:
    name, keep_alive = asked_model(call).name, seconds(call.body.any("keep_alive"))
    return await embed(call, EmbeddingRequest(model=name, texts=[*texts], options=options, keep_alive=keep_alive))


def all_routes() -> list[Route]:
    return routes(API, {"/api/embed": embed_texts, "/api/embeddings": embed_prompt})

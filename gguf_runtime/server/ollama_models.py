"""Ollama's API: the models on this machine, and those in memory."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from .. import __version__
from .http import ApiCall, Endpoint, Stream, encode, routes
from .models import ServedModel
from .ollama import API, moment, shown
from .texts import ModelTexts
from .vocabulary import Failure

_VERSION = "0.12.6"  # of the Ollama whose API this is: clients want one that is recent
_UNTIL_FOREVER = 4102444800.0  # the year 2100
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 25: "IQ4_NL", 30: "IQ4_XS",
    32: "BF16", 38: "MXFP4",
}  # fmt: skip


async def version(call: ApiCall) -> Any:
    return {"version": _VERSION, "ggrun": __version__}


async def tags(call: ApiCall) -> Any:
    known = await call.service.models.all()
    listed = await asyncio.to_thread(lambda: [_listed(model) for model in known])
    found = sorted((facts for facts in listed if facts), key=lambda facts: facts["modified_at"], reverse=True)
    return {"models": found}


async def ps(call: ApiCall) -> Any:
    loaded = [model for model in call.service.models if model.state == "loaded"]
    return {
        "models": [
            {
                **_common(model, model.texts),
                "size": model.texts.n_bytes,
                "size_vram": 0,
                "expires_at": moment(_UNTIL_FOREVER if model.expires is None else model.expires),
                "context_length": model.n_ctx,
            }
            for model in loaded
        ]
    }


async def show(call: ApiCall) -> Any:
    body = call.body
    model = call.service.models.find(body.required(body.text("model", "name"), "model"))
    texts = model.texts if model.state == "loaded" else await asyncio.to_thread(ModelTexts, model.path)
    architecture = texts.architecture
    info = {key: _plain(value, bool(body.flag("verbose"))) for key, value in texts.metadata.items()}
    if model.state == "loaded":
        info[f"{architecture}.context_length"] = model.n_ctx  # that is served
    info["general.parameter_count"] = texts.n_params
    return {
        "modelfile": model.recipe.text() if model.recipe else f"FROM {model.name}\n",
        "parameters": "\n".join(f"{name} {value}" for name, value in (model.recipe.parameters if model.recipe else ())),
        "template": (model.recipe.template if model.recipe else None) or texts.template,
        "system": (model.recipe.system if model.recipe else None) or "",
        "license": str(texts.metadata.get("general.license", "")),
        "details": _details(texts),
        "model_info": info,
        "capabilities": texts.capabilities,
        "modified_at": moment(model.modified),
    }


async def pull(call: ApiCall) -> Any:
    from ..store import HowFar, NoModel, resolve

    body = call.body
    name = body.required(body.text("model", "name"), "model")
    far = HowFar(name)
    work = asyncio.create_task(asyncio.to_thread(resolve, name, progress=far))
    digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"

    async def lines() -> AsyncIterator[bytes]:
        yield encode({"status": "pulling manifest"}) + b"\n"
        while not work.done():
            await asyncio.wait([work], timeout=1)
            if far.total:
                size = {"digest": digest, "total": far.total, "completed": far.done}
                yield encode({"status": f"pulling {name}", **size}) + b"\n"
        yield encode(_pulled(work)) + b"\n"

    if body.flag("stream") is not False:
        return Stream(lines(), lambda: None, "application/x-ndjson")
    await asyncio.wait([work])
    if error := work.exception():
        raise Failure("not_found" if isinstance(error, NoModel) else "failed", str(error))
    return _pulled(work)


def _pulled(work: asyncio.Task[Path]) -> dict[str, Any]:
    error = work.exception()
    return {"error": str(error)} if error else {"status": "success"}


async def delete(call: ApiCall) -> Response:
    from ..store import Store

    model = call.service.models.find(call.body.required(call.body.text("model", "name"), "model"))
    found = await asyncio.to_thread(Store().find, model.name)
    if found is None:
        raise Failure("no_model", "it is not in ggrun's own store", name=model.name)
    await call.service.models.unload(model)
    await asyncio.to_thread(Store().remove, found)
    call.service.models.forget(model)
    return Response()


async def copy(call: ApiCall) -> Response:
    from ..store import Store, StoredModel, StoreError
    from ..store.model import parts

    body = call.body
    model = call.service.models.find(body.required(body.text("source"), "source"))
    name = body.required(body.text("destination"), "destination").removesuffix(":latest")
    if not re.fullmatch(r"[\w.-]+(:[\w.-]+)?", name):
        raise Failure("invalid", f"{name!r} is no name for a model", field="destination")
    stored = StoredModel(model.name, parts(Path(model.path)))
    try:
        await asyncio.to_thread(Store().copy, stored, name)
    except StoreError as error:
        raise Failure("invalid", str(error)) from error
    return Response()


async def not_here(call: ApiCall) -> Any:
    raise Failure("unsupported", f"{call.http.url.path}: use `ggrun create` on the server's machine")


async def root(call: ApiCall) -> Response:
    return PlainTextResponse("Ollama is running")


def _listed(model: ServedModel) -> dict[str, Any] | None:
    try:
        texts = _read(model.path, model.modified)
    except Exception:  # a file that cannot be read is no model to offer
        return None
    size = Path(model.path).stat().st_size
    return {**_common(model, texts), "modified_at": moment(model.modified), "size": size}


@lru_cache(maxsize=256)
def _read(path: str, modified: int) -> ModelTexts:
    return ModelTexts(path, reads_vocabulary=False)


def _common(model: ServedModel, texts: ModelTexts) -> dict[str, Any]:
    name = shown(model.name)
    return {"name": name, "model": name, "digest": _digest(model), "details": _details(texts),
            "capabilities": texts.capabilities}  # fmt: skip


def _digest(model: ServedModel) -> str:
    """Of the file's name, size and time: it tells one file from another, and takes no reading of gigabytes."""
    path = Path(model.path)
    return hashlib.sha256(f"{path.name} {path.stat().st_size} {model.modified}".encode()).hexdigest()


def _details(texts: ModelTexts) -> dict[str, Any]:
    n, file_type = texts.n_params, texts.metadata.get("general.file_type")
    size = f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.2f}M"
    level = _FILE_TYPES.get(file_type, "unknown") if isinstance(file_type, int) else "unknown"
    return {
        "parent_model": "", "format": "gguf", "family": texts.architecture, "families": [texts.architecture],
        "parameter_size": size, "quantization_level": level,
        "context_length": texts.hparam("context_length"), "embedding_length": texts.hparam("embedding_length"),
    }  # fmt: skip


def _plain(value: Any, verbose: bool) -> Any:
    """A value of the metadata for JSON: arrays only where all is asked for."""
    if isinstance(value, str | int | float | bool):
        return value
    return [item.decode(errors="replace") if isinstance(item, bytes) else item for item in value] if verbose else None


def all_routes() -> list[Route]:
    gets = {"/api/tags": tags, "/api/version": version, "/api/ps": ps}
    posts = {
        "/api/show": show, "/api/pull": pull, "/api/copy": copy, "/api/create": not_here, "/api/push": not_here,
    }  # fmt: skip
    return [
        *routes(API, gets, ("GET", "HEAD")),
        *routes(API, posts),
        *routes(API, {"/api/delete": delete}, ("DELETE",)),
        Route("/api/blobs/{digest}", Endpoint(API, not_here), methods=["POST", "HEAD"]),
        Route("/", Endpoint(API, root), methods=["GET", "HEAD"]),
    ]

"""llama-server's own API: tokens and templates, and what the server is and does."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.routing import Route

from .. import __version__
from . import openai
from .http import Api, ApiCall, event, routes
from .llama_server_answer import sampling, settings
from .llama_server_completion import completion, infill, is_part
from .models import ServedModel
from .openai_chat import chat_request
from .openai_embeddings import llama_server_embedding
from .service import Answers
from .texts import ModelTexts
from .vocabulary import Failure


def error(failure: Failure, id: str) -> dict[str, Any]:
    """OpenAI's form, with the status as the code."""
    told = openai.error(failure, id)
    told["error"]["code"] = failure.status
    return told


API = Api(error, lambda failure, id: event(error(failure, id)), openai.API.ping)


async def tokenize(call: ApiCall) -> Any:
    body = call.body
    texts = await _texts(call)
    content = "" if (given := body.any("content")) is None else given
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(map(is_part, parts)):
        raise body.wrong("content", "text, or a list of texts and token ids", content)
    texts.check((part for part in parts if isinstance(part, int)), "content")
    ids: list[int] = []
    for i, part in enumerate(parts):
        adds = bool(body.flag("add_special")) and i == 0
        special = body.flag("parse_special") is not False
        ids += [part] if isinstance(part, int) else texts.tokenizer.encode(part, adds, special)
    if not body.flag("with_pieces"):
        return {"tokens": ids}
    return {"tokens": [{"id": id, "piece": _piece(texts, id)} for id in ids]}


async def detokenize(call: ApiCall) -> Any:
    body = call.body
    texts, ids = await _texts(call), body.array("tokens") or []
    if not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
        raise body.wrong("tokens", "a list of token ids", ids)
    texts.check(ids, "tokens")
    return {"content": texts.tokenizer.decode(ids)}


async def apply_template(call: ApiCall) -> Any:
    text, _ = await call.service.read(chat_request(call))
    return {"prompt": str(text)}


def _piece(texts: ModelTexts, id: int) -> Any:
    data = texts.tokenizer.token_bytes(id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


async def _texts(call: ApiCall) -> ModelTexts:
    async with call.service.models.use(call.service.models.find(call.body.text("model") or "")) as model:
        return model.texts


async def props(call: ApiCall) -> Any:
    """Neither wakes a model that sleeps, one that was loaded and is no longer, nor keeps one awake."""
    if call.http.method == "POST":
        raise Failure("unsupported", "properties are given at the start, with the options of `ggrun serve`")
    model, policy = _asked(call), call.service.policy
    sleeps = model.state == "unloaded" and model.last_n_ctx is not None
    if sleeps:
        template = call.service.models.template(model)
        texts = await asyncio.to_thread(ModelTexts, model.path, template, reads_vocabulary=False)
    else:
        if model.state != "loaded":
            await call.service.models.acquire(model)
            call.service.models.release(model)
        texts = model.texts
    params = {**sampling(policy.sampling), "n_predict": -1 if policy.max_tokens is None else policy.max_tokens}
    return {
        "default_generation_settings": {"params": {**params, "stop": policy.stop}, "n_ctx": model.last_n_ctx},
        "total_slots": model.turns.n_parallel,
        "model_path": model.path,
        "model_alias": model.name,
        "chat_template": texts.template,
        "chat_template_caps": {f"supports_{name}": name in texts.capabilities for name in ("tools", "thinking")},
        "bos_token": texts.special("bos"),
        "eos_token": texts.special("eos"),
        "modalities": {"vision": False, "video": False, "audio": False},
        "endpoint_slots": policy.slots,
        "endpoint_props": False,
        "endpoint_metrics": policy.metrics,
        "build_info": f"ggrun {__version__}",
        "is_sleeping": sleeps,
    }


async def slots(call: ApiCall) -> Any:
    """There are none: the turns stand for them, those that are taken first."""
    if not call.service.policy.slots:
        raise Failure("unsupported", "the server was started with --no-slots")
    async with call.service.models.use(_asked(call)) as model:
        answers = [answer for answer in call.service.running if answer.model is model]
        busy = [_slot(model, i, answer) for i, answer in enumerate(answers)]
        idle = [_slot(model, i, None) for i in range(len(busy), model.turns.n_parallel)]
        if not idle and call.http.query_params.get("fail_on_no_slot"):
            raise Failure("loading", "no slot available")
        return [*busy, *idle]


def _slot(model: ServedModel, i: int, answer: Answers | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": i, "n_ctx": model.n_ctx, "speculative": False, "is_processing": answer is not None}
    if answer is None:
        return facts
    timings, most = answer.timings, answer.request.max_tokens
    left = -1 if most is None else max(0, most - timings.n_answer)
    return {
        **facts, "id_task": answer.number, "n_prompt_tokens": timings.n_prompt,
        "n_prompt_tokens_processed": timings.n_new, "n_prompt_tokens_cache": timings.n_cached,
        "params": settings(answer.request),
        "next_token": [{"has_next_token": True, "n_remain": left, "n_decoded": timings.n_answer}],
    }  # fmt: skip


async def list_models(call: ApiCall) -> Any:
    known = await call.service.models.all()
    return {"object": "list", "data": [{**openai.told(model, call), **_status(model)} for model in known]}


async def load(call: ApiCall) -> Any:
    model = _named(call)
    call.service.models.preload(model)
    async with call.service.models.use(model):
        return {"success": True}


async def unload(call: ApiCall) -> Any:
    await call.service.models.unload(_named(call))
    return {"success": True}


async def lora_adapters(call: ApiCall) -> Any:
    if call.http.method == "POST":
        raise Failure("unsupported", "this version of ggrun has no adapters")
    return []


def _named(call: ApiCall) -> ServedModel:
    return call.service.models.find(call.body.required(call.body.text("model"), "model"))


def _asked(call: ApiCall) -> ServedModel:
    return call.service.models.find(call.http.query_params.get("model", ""))


def _status(model: ServedModel) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": model.path, "n_users": model.n_users}
    facts["status"] = {"value": model.state, **({"error": model.error.message} if model.error else {})}
    if model.state == "loaded":
        facts |= {"n_ctx": model.n_ctx, "size": model.texts.n_bytes, "expires_at": model.expires}
    return facts


def all_routes() -> list[Route]:
    posts = {
        "/completion": completion, "/completions": completion, "/infill": infill, "/tokenize": tokenize,
        "/detokenize": detokenize, "/apply-template": apply_template, "/models/load": load, "/models/unload": unload,
        "/embedding": llama_server_embedding,
    }  # fmt: skip
    both = {"/props": props, "/lora-adapters": lora_adapters}
    return [
        *routes(API, posts),
        *routes(API, both, ("GET", "POST")),
        *routes(API, {"/slots": slots, "/models": list_models}, ("GET",)),
    ]

"""OpenAI's API: models, the form of errors, and what chat, completions and responses have in common."""

from __future__ import annotations

import time
import uuid
from typing import Any
from urllib.parse import unquote

from starlette.routing import Route

from .. import __version__
from .http import Api, ApiCall, Endpoint, event, routes
from .models import ServedModel
from .texts import ModelTexts
from .vocabulary import AnswerRequest, Failure, Kind, PromptProgress, Timings, Token

FINGERPRINT = f"ggrun-{__version__}"
_TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error", "unauthorized": "authentication_error", "forbidden": "permission_error",
    "not_found": "not_found_error", "no_model": "not_found_error", "wrong_method": "invalid_request_error",
    "too_large": "invalid_request_error", "too_long": "exceed_context_size_error", "busy": "rate_limit_error",
    "failed": "server_error", "unsupported": "not_supported_error", "loading": "unavailable_error",
    "timeout": "timeout_error",
}  # fmt: skip
_CODES: dict[Kind, str] = {
    "no_model": "model_not_found", "too_long": "context_length_exceeded", "unauthorized": "invalid_api_key",
}  # fmt: skip


def error(failure: Failure, id: str) -> dict[str, Any]:
    return {
        "error": {
            "message": failure.message,
            "type": _TYPES[failure.kind],
            "param": failure.field,
            "code": _CODES.get(failure.kind),
            **{name: value for name, value in failure.facts.items() if name.startswith("n_")},
        }
    }


API = Api(error, lambda failure, id: event(error(failure, id)), b": still at it\n\n")


def new_id(kind: str) -> str:
    return f"{kind}{uuid.uuid4().hex[:24]}"


def usage(timings: Timings) -> dict[str, Any]:
    return {
        "prompt_tokens": timings.n_prompt,
        "completion_tokens": timings.n_answer,
        "total_tokens": timings.n_prompt + timings.n_answer,
        "prompt_tokens_details": {"cached_tokens": timings.n_cached},
        "completion_tokens_details": {"reasoning_tokens": timings.n_thought},
    }


def timings_of(timings: Timings) -> dict[str, Any]:
    """As llama-server tells them: all finite; the rate leaves out the first token, which the prompt's time has."""
    n_steps = max(timings.n_answer - 1, 0)
    prompt_ms, answer_ms = 1000 * timings.prompt_seconds, 1000 * timings.answer_seconds
    return {
        "cache_n": timings.n_cached,
        "prompt_n": timings.n_new,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(timings.n_new, 1),
        "prompt_per_second": 1000 * timings.n_new / prompt_ms if prompt_ms else 0.0,
        "predicted_n": timings.n_answer,
        "predicted_ms": answer_ms,
        "predicted_per_token_ms": answer_ms / max(n_steps, 1),
        "predicted_per_second": 1000 * n_steps / answer_ms if answer_ms else 0.0,
        **({"draft_n": timings.n_drafted, "draft_n_accepted": timings.n_accepted} if timings.n_drafted else {}),
    }


def progress(item: PromptProgress) -> dict[str, Any]:
    return {
        "total": item.n_prompt, "cache": item.n_cached, "processed": item.n_done,
        "time_ms": int(1000 * item.seconds),
    }  # fmt: skip


def token_facts(token: Token, texts: ModelTexts) -> dict[str, Any]:
    """A token of an answer with its log probability."""
    return {
        **_likely(token.id, token.logprob, texts),
        "top_logprobs": [_likely(id, logprob, texts) for id, logprob in token.top],
    }


def finite(logprob: float | None) -> float:
    """JSON has no infinity."""
    return -9999.0 if logprob is None or logprob < -9999 else logprob


def _likely(id: int, logprob: float | None, texts: ModelTexts) -> dict[str, Any]:
    data = texts.tokenizer.token_bytes(id)
    return {"id": id, "token": data.decode(errors="replace"), "bytes": list(data), "logprob": finite(logprob)}


def set_common(request: AnswerRequest, call: ApiCall) -> None:
    """What vLLM and llama-server take beside OpenAI's fields."""
    body = call.body
    request.priority = body.whole("priority") or 0
    request.cache = body.flag("cache_prompt") is not False
    request.salt = body.text("cache_salt") or ""
    request.progress = bool(body.flag("return_progress"))
    request.keep_alive = body.real("keep_alive")
    request.tells_prompt = body.flag("verbose")


async def models(call: ApiCall) -> Any:
    known = await call.service.models.all()
    if "anthropic-version" in call.http.headers:
        from .anthropic import model_list

        return model_list(known)
    return {"object": "list", "data": [told(model, call) for model in known]}


async def model(call: ApiCall) -> Any:
    return told(call.service.models.find(unquote(call.http.path_params["id"])), call)


def told(model: ServedModel, call: ApiCall) -> dict[str, Any]:
    """A model in a list."""
    facts: dict[str, Any] = {
        "id": model.name, "object": "model", "created": model.modified, "owned_by": "ggrun",
        "aliases": model.aliases, "tags": call.service.policy.tags,
    }  # fmt: skip
    if model.state == "loaded":
        texts = model.texts
        facts |= {
            "max_model_len": model.n_ctx,
            "meta": {
                "vocab_type": texts.metadata.get("tokenizer.ggml.model"), "n_vocab": texts.tokenizer.n_vocab,
                "n_ctx": model.n_ctx, "n_ctx_train": texts.hparam("context_length"),
                "n_embd": texts.hparam("embedding_length"), "n_params": texts.n_params, "size": texts.n_bytes,
            },
        }  # fmt: skip
    return facts


def _both(path: str) -> tuple[str, str]:
    return f"/v1{path}", path


def all_routes() -> list[Route]:
    from .openai_chat import chat_completions, count_chat
    from .openai_completions import completions
    from .openai_embeddings import embeddings, openai_embeddings, rerank
    from .openai_responses import count_response, response, responses

    posts = {
        "/chat/completions": chat_completions,
        "/completions": completions,
        "/chat/completions/input_tokens": count_chat,
        "/responses": responses,
        "/responses/input_tokens": count_response,
        "/embeddings": openai_embeddings,
        "/rerank": rerank,
        "/reranking": rerank,
    }
    table = {path: handler for name, handler in posts.items() for path in _both(name)}
    del table["/completions"]  # llama-server has its own there
    table["/embeddings"] = embeddings
    return [
        *routes(API, table),
        *routes(API, {"/v1/models": models}, ("GET",)),
        Route("/v1/models/{id:path}", Endpoint(API, model), methods=["GET"]),
        Route("/v1/responses/{id}", Endpoint(API, response), methods=["GET", "DELETE"]),
    ]


def now() -> int:
    return int(time.time())

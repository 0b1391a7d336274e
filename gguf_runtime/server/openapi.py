"""What the server says of itself: OpenAPI's description, made of the routes themselves, and a page of it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from .. import __version__
from .http import ApiCall, Endpoint, routes
from .openai import API

_STATUSES = {
    400: "Something in the request is wrong", 401: "The key is missing or wrong",
    403: "The host is not this machine's, or a web page asks that may not",
    404: "There is no such model, or no such thing", 413: "The body is too large", 422: "As 400, of TGI's routes",
    429: "Too many requests are waiting", 500: "The engine failed", 501: "Not supported", 503: "Not ready, or busy",
    504: "It took too long",
}  # fmt: skip
_WHOLE, _REAL, _TEXT, _FLAG, _LIST, _OBJECT = (
    {"type": kind} for kind in ("integer", "number", "string", "boolean", "array", "object")
)
_ANY: dict[str, str] = {}
_SAMPLING = {
    "temperature": _REAL, "top_k": _WHOLE, "top_p": _REAL, "min_p": _REAL, "seed": _WHOLE, "stop": _ANY,
    "presence_penalty": _REAL, "frequency_penalty": _REAL, "repeat_penalty": _REAL, "logit_bias": _ANY,
}  # fmt: skip
_MESSAGES = {"messages": {"type": "array", "items": _OBJECT}, "model": _TEXT, "stream": _FLAG, "tools": _LIST}
#: Path → fields of its body, those that are needed with a star.
_BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages*": _MESSAGES["messages"], "model": _TEXT, "stream": _FLAG, "stream_options": _OBJECT,
        "tools": _LIST, "tool_choice": _ANY, "parallel_tool_calls": _FLAG, "max_tokens": _WHOLE,
        "max_completion_tokens": _WHOLE, "n": _WHOLE, "logprobs": _FLAG, "top_logprobs": _WHOLE,
        "response_format": _OBJECT, "reasoning_effort": _TEXT, "chat_template_kwargs": _OBJECT, **_SAMPLING,
    },
    "/v1/completions": {
        "prompt*": _ANY, "model": _TEXT, "stream": _FLAG, "suffix": _TEXT, "max_tokens": _WHOLE, "n": _WHOLE,
        "best_of": _WHOLE, "echo": _FLAG, "logprobs": _WHOLE, **_SAMPLING,
    },
    "/v1/responses": {
        "input*": _ANY, "model": _TEXT, "instructions": _TEXT, "stream": _FLAG, "tools": _LIST, "tool_choice": _ANY,
        "max_output_tokens": _WHOLE, "previous_response_id": _TEXT, "reasoning": _OBJECT, "text": _OBJECT,
        "store": _FLAG, "temperature": _REAL, "top_p": _REAL,
    },
    "/v1/messages": {
        "messages*": _MESSAGES["messages"], "max_tokens": _WHOLE, "model": _TEXT, "system": _ANY, "stream": _FLAG,
        "tools": _LIST, "tool_choice": _OBJECT, "thinking": _OBJECT, "stop_sequences": _LIST, "temperature": _REAL,
        "top_k": _WHOLE, "top_p": _REAL,
    },
    "/v1/messages/count_tokens": {"messages*": _MESSAGES["messages"], "model": _TEXT, "system": _ANY, "tools": _LIST},
    "/api/chat": {
        "model*": _TEXT, **{name: kind for name, kind in _MESSAGES.items() if name != "model"}, "format": _ANY,
        "options": _OBJECT, "think": _ANY, "keep_alive": _ANY,
    },
    "/api/generate": {
        "model*": _TEXT, "prompt": _TEXT, "suffix": _TEXT, "system": _TEXT, "raw": _FLAG, "context": _LIST,
        "stream": _FLAG, "format": _ANY, "options": _OBJECT, "think": _ANY, "keep_alive": _ANY,
    },
    "/api/show": {"model*": _TEXT, "verbose": _FLAG},
    "/api/pull": {"model*": _TEXT, "stream": _FLAG},
    "/api/delete": {"model*": _TEXT},
    "/api/copy": {"source*": _TEXT, "destination*": _TEXT},
    "/completion": {
        "prompt*": _ANY, "stream": _FLAG, "n_predict": _WHOLE, "n_probs": _WHOLE, "return_tokens": _FLAG,
        "response_fields": _LIST, "grammar": _TEXT, "json_schema": _ANY, **_SAMPLING,
    },
    "/infill": {
        "input_prefix*": _TEXT, "input_suffix*": _TEXT, "input_extra": _LIST, "prompt": _TEXT, "stream": _FLAG,
        "n_predict": _WHOLE,
    },
    "/v1/embeddings": {
        "input*": _ANY, "model": _TEXT, "encoding_format": _TEXT, "dimensions": _WHOLE,
        "truncate": _FLAG,
    },
    "/v1/rerank": {
        "query*": _TEXT, "documents*": _LIST, "model": _TEXT, "top_n": _WHOLE, "return_documents": _FLAG,
        "truncate": _FLAG,
    },
    "/embedding": {"content*": _ANY, "model": _TEXT, "embd_normalize": _WHOLE},
    "/api/embed": {
        "model*": _TEXT, "input*": _ANY, "truncate": _FLAG, "dimensions": _WHOLE, "keep_alive": _ANY,
    },
    "/api/embeddings": {"model*": _TEXT, "prompt*": _TEXT, "keep_alive": _ANY},
    "/tokenize": {"content*": _ANY, "add_special": _FLAG, "parse_special": _FLAG, "with_pieces": _FLAG},
    "/detokenize": {"tokens*": _LIST},
    "/apply-template": {"messages*": _MESSAGES["messages"], "tools": _LIST},
    "/models/load": {"model*": _TEXT},
    "/models/unload": {"model*": _TEXT},
    "/generate": {"inputs*": _TEXT, "parameters": _OBJECT},
    "/generate_stream": {"inputs*": _TEXT, "parameters": _OBJECT},
    "/": {"inputs*": _TEXT, "parameters": _OBJECT, "stream": _FLAG},
    "/chat": {
        "message*": _TEXT, "session_id": _TEXT, "system": _TEXT, "model": _TEXT, "max_tokens": _WHOLE, **_SAMPLING,
    },
}  # fmt: skip
_SAME = {f"/{name}": f"/v1/{name}" for name in ("chat/completions", "responses", "embeddings", "rerank")}
_SAME |= {"/completions": "/completion", "/reranking": "/v1/rerank", "/v1/reranking": "/v1/rerank"}
_STYLE = "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}code{background:#8882}"


def description(known: Iterable[BaseRoute]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in known:
        if isinstance(route, Route) and route.include_in_schema:
            path = route.path.replace(":path}", "}")
            for method in sorted(route.methods or ()):
                if method != "HEAD":
                    paths.setdefault(path, {})[method.lower()] = _operation(path, method)
    key = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ggrun", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": key}},
        "security": [{}, {"key": []}],
    }


def _operation(path: str, method: str) -> dict[str, Any]:
    answers = {"200": {"description": "Done, or begun"}}
    answers |= {str(status): {"description": told} for status, told in _STATUSES.items()}
    facts: dict[str, Any] = {"operationId": f"{method} {path}", "responses": answers}
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    if names:
        facts["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
    if method in ("POST", "DELETE") and (fields := _BODIES.get(_SAME.get(path, path))):
        needed = [name[:-1] for name in fields if name.endswith("*")]
        schema = {"type": "object", "properties": {name.rstrip("*"): kind for name, kind in fields.items()}}
        content = {"application/json": {"schema": {**schema, "required": needed}}}
        facts["requestBody"] = {"required": True, "content": content}
    return facts


async def described(call: ApiCall) -> Any:
    return description(call.http.app.routes)


async def page(call: ApiCall) -> Response:
    """The description to be read by people; it has no scripts."""
    parts = []
    for path, operations in description(call.http.app.routes)["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h3><code>{method.upper()} {escape(path)}</code></h3>")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body:
                fields = [_field(name, kind, name in body["required"]) for name, kind in body["properties"].items()]
                parts.append(f"<p>{', '.join(fields)}</p>")
    html = f"<!doctype html><html lang=en><meta charset=utf-8><title>ggrun: the API</title><style>{_STYLE}</style>"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    text = f"{html}<h1>ggrun: the API</h1><p><a href=openapi.json>openapi.json</a></p>{''.join(parts)}</html>"
    return HTMLResponse(text, headers={"content-security-policy": policy})


def _field(name: str, kind: dict[str, Any], needed: bool) -> str:
    shown = f"<code>{escape(name)}</code> {kind.get('type', '')}".strip()
    return f"<b>{shown}</b>" if needed else shown


def all_routes() -> list[Route]:
    shown = routes(API, {"/openapi.json": described}, ("GET",))
    return [*shown, Route("/docs", Endpoint(API, page), methods=["GET"], include_in_schema=False)]

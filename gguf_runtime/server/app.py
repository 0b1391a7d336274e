"""The application: all APIs' routes behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from . import anthropic, llama_server, ollama, openai, openapi, operation, page, plain_chat, tgi
from .guard import AccessRules, Guard
from .http import Api, failed
from .models import Models
from .openai_responses import Conversations
from .policy import Policy
from .service import Service
from .vocabulary import Failure

#: The beginning of a path → whose errors it has; all others have OpenAI's.
_APIS: dict[str, Api] = {
    "/api/": ollama.API,
    "/v1/messages": anthropic.API,
    "/generate": tgi.API,
    **dict.fromkeys(("/completion", "/infill", "/tokenize", "/detokenize", "/props", "/slots"), llama_server.API),
}


def api_of(path: str) -> Api:
    return next((api for start, api in _APIS.items() if path.startswith(start)), openai.API)


def application(models: Models, rules: AccessRules, policy: Policy) -> ASGIApp:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await models.close()

    shown = (page,) if policy.page else ()
    modules = (*shown, operation, openai, anthropic, ollama, llama_server, tgi, plain_chat, openapi)
    app = Starlette(
        routes=[route for module in modules for route in module.all_routes()],
        exception_handlers={HTTPException: _http_error, Exception: _bug},
        lifespan=lifespan,
    )
    app.state.service = Service(models, policy)
    app.state.conversations, app.state.sessions = Conversations(), plain_chat.Sessions()
    return Guard(app, rules, api_of)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code != 405:
        return failed(api_of(path), Failure("not_found", f"there is no {path} here"), request.scope)
    response = failed(api_of(path), Failure("wrong_method", f"{path} does not take {request.method}"), request.scope)
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.path_regex.match(path)]
    response.headers["allow"] = ", ".join(sorted({method for route in routes for method in route.methods or ()}))
    return response


async def _bug(request: Request, error: Exception) -> Response:
    failure = Failure("failed", f"{type(error).__name__} in the server: this is a bug in ggrun")
    return failed(api_of(request.url.path), failure, request.scope)

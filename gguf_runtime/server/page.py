"""The web chat's files: the page at `/`, and what it loads from `/assets/`. None of them needs a key."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Nothing from elsewhere, nothing inline, and no text that becomes markup or code (trusted types). What a model writes
# is shown by this page: should a way around its own care be found, the browser still refuses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept",
    "Cache-Control": "no-cache",  # asked for again each time, and answered with 304 until ggrun is another one
}


@cache
def _files() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Content and headers of each file, by name."""
    files = {}
    for entry in resources.files(__package__).joinpath("web").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in _TYPES:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
            files[entry.name] = content, {"Content-Type": _TYPES[suffix], "ETag": tag, **_HEADERS}
    return files


async def _file(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if name not in _files():
        raise HTTPException(404)
    content, headers = _files()[name]
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


class _ForBrowsers(Route):
    """What only browsers get, by the types they accept; others find here what their API has at the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        wanted = scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", "")
        return super().matches(scope) if wanted else (Match.NONE, {})


def all_routes() -> list[Route]:
    """Not a part of the API that is described."""
    shown = _ForBrowsers("/", _file, include_in_schema=False)
    return [shown, Route("/assets/{name}", _file, include_in_schema=False)]

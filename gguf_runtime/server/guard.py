"""What every request passes through: who may ask, from where, and how much; an id; a line in the log."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import socket
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .http import Api, failed
from .vocabulary import Failure

_HEALTH = ("/health", "/v1/health")
_LOCAL_NAMES = ("localhost",)
_LOCAL_ENDS = (".localhost", ".local", ".internal")
_LOCAL_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
_ALLOWED = "Authorization, Content-Type, X-Api-Key, anthropic-version, anthropic-beta, OpenAI-Beta, X-Request-Id"
_STAINLESS = re.compile(r"x-stainless-[a-z-]+", re.IGNORECASE)


@dataclass
class AccessRules:
    """keys: of which a request needs one, if there are any. checks_host: refuse names that are not this machine's.
    origins: of web pages that may ask, beside the server's own; "localhost" for those of this machine, "*" for all.
    open_paths: what begins with one is open, as the page and /health are: to all pages, and without a key. max_body:
    bytes. prefix: what all paths begin with, to be left out. log: gets a line for each request."""

    keys: Collection[str] = ()
    checks_host: bool = True
    origins: Collection[str] = ()
    open_paths: Collection[str] = ("/assets/",)
    max_body: int = 32 << 20
    prefix: str = ""
    log: Callable[[str], None] | None = None


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, rules: AccessRules, api_of: Callable[[str], Api]) -> None:
        """api_of: the API whose form errors have on a path."""
        self._app, self._rules, self._api_of = app, rules, api_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if prefix := self._rules.prefix:
            if not scope["path"].startswith(f"{prefix}/"):
                elsewhere = Failure("not_found", f"all paths begin with {prefix}/ here")
                await failed(self._api_of(""), elsewhere, scope)(scope, receive, send)
                return
            scope = {**scope, "path": scope["path"][len(prefix) :], "root_path": prefix}
        headers, start = Headers(scope=scope), time.monotonic()
        key = _key(headers)
        scope["ggrun.id"] = _request_id(headers)
        scope["ggrun.salt"] = hashlib.sha256(key.encode()).hexdigest()[:16] if key and self._rules.keys else ""
        scope["ggrun.client"] = scope["ggrun.salt"] or (scope.get("client") or ("",))[0]
        id = scope["ggrun.id"].encode()
        extra = [(b"x-request-id", id), (b"request-id", id), (b"date", formatdate(usegmt=True).encode())]
        extra += self._cors(headers)
        note: dict[str, Any] = {}

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                note["status"] = message["status"]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            if failure := self._refuses(scope, headers, key):
                await failed(self._api_of(scope["path"]), failure, scope)(scope, receive, reply)
            elif scope["method"] == "OPTIONS":
                await Response(status_code=200)(scope, receive, reply)
            else:
                await self._app(scope, _limited(receive, self._rules.max_body), reply)
        except Failure as failure:  # a body that is too large
            if "status" not in note:
                await failed(self._api_of(scope["path"]), failure, scope)(scope, receive, reply)
        finally:
            if self._rules.log:
                self._rules.log(json.dumps(_line(scope, note.get("status", 499), time.monotonic() - start)))

    def _refuses(self, scope: Scope, headers: Headers, key: str) -> Failure | None:
        rules, path = self._rules, scope["path"]
        if rules.checks_host and not _is_local(headers.get("host", "")):
            return Failure("forbidden", f"the host {headers.get('host', '')!r} is not this machine's name")
        if int(headers.get("content-length") or 0) > rules.max_body:
            return Failure("too_large", f"the body is larger than {rules.max_body} bytes")
        if self._is_open(scope["method"], path) or scope["method"] == "OPTIONS":  # whose headers say what is allowed
            return None
        origin = headers.get("origin")
        if origin is not None and not _is_own(origin, headers) and not self._allows(origin):
            return Failure(
                "forbidden", f"pages of {origin} may not ask here: name that in --cors-origins if they are to"
            )
        if rules.keys and not _is_among(key, rules.keys):
            return Failure("unauthorized", "the API key is missing or wrong")
        return None

    def _is_open(self, method: str, path: str) -> bool:
        """Whether the page's files or /health are asked for; POST / is TGI's."""
        is_page = path == "/" or any(path.startswith(start) for start in self._rules.open_paths)
        return path in _HEALTH or (is_page and method in ("GET", "HEAD"))

    def _allows(self, origin: str) -> bool:
        origins = self._rules.origins
        is_local = "localhost" in origins and _LOCAL_ORIGIN.fullmatch(origin)
        return origin in origins or bool(is_local) or "*" in origins

    def _cors(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        origin = headers.get("origin")
        if not origin or not self._allows(origin):
            return []
        asked = headers.get("access-control-request-headers", "")
        allowed = ", ".join([_ALLOWED, *_STAINLESS.findall(asked)])
        return [
            (b"access-control-allow-origin", origin.encode()),
            (b"vary", b"Origin"),
            (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
            (b"access-control-allow-headers", allowed.encode()),
            (b"access-control-expose-headers", b"X-Request-Id, request-id"),
        ]


def _key(headers: Headers) -> str:
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


def _is_among(key: str, keys: Collection[str]) -> bool:
    """In a time that does not tell how much of a key is right."""
    return sum(hmac.compare_digest(key.encode(), known.encode()) for known in keys) > 0


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if given.isascii() and given.isprintable() and 0 < len(given) <= 128 else uuid.uuid4().hex


def _is_own(origin: str, headers: Headers) -> bool:
    """Whether a page of this server asks, also one that came through a proxy that speaks TLS for it."""
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and host.lower() == headers.get("host", "").lower() != ""


def _is_local(host: str) -> bool:
    name = re.sub(r":\d+$", "", host).strip("[]").lower().rstrip(".")
    if name in (*_LOCAL_NAMES, socket.gethostname().lower()) or name.endswith(_LOCAL_ENDS):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return not host  # HTTP/1.0
    return True


def _limited(receive: Receive, most: int) -> Receive:
    """Raises Failure once a body has become too large."""
    n = 0

    async def counted() -> Message:
        nonlocal n
        message = await receive()
        n += len(message.get("body", b""))
        if n > most:
            raise Failure("too_large", f"the body is larger than {most} bytes")
        return message

    return counted


def _line(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """What the log says: no text of anybody's."""
    line = {
        "time": formatdate(usegmt=True), "id": scope["ggrun.id"], "client": (scope.get("client") or ("",))[0],
        "method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 4),
    }  # fmt: skip
    if error := scope.get("ggrun.error"):  # of a stream, whose status was sent before
        line["error"] = error
    costs = [(answer.model.name, answer.timings) for answer in scope.get("ggrun.answers", ())]
    if costs := costs or scope.get("ggrun.costs", []):
        line["model"] = costs[0][0]
        for name in ("n_prompt", "n_cached", "n_answer"):
            line[name] = sum(getattr(timings, name) for _, timings in costs)
    return line

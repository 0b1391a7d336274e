"""What every route needs of HTTP: bodies, answers, streams, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .fields import Fields
from .service import Answers, Service
from .vocabulary import AnswerRequest, Failure

_PATIENCE = 60  # seconds for a body to come
_SILENCE = 1.0  # seconds after which a stream says that it is alive
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # so that proxies do not hold it back
SSE = "text/event-stream; charset=utf-8"

encode = msgspec.json.encode


class Api(NamedTuple):
    """How an API tells of failures: error gives the body; event, what a stream that fails ends with; ping: what to send
    in silence."""

    error: Callable[[Failure, str], dict[str, Any]]
    event: Callable[[Failure, str], bytes]
    ping: bytes = b""
    status: Callable[[Failure], int] = lambda failure: failure.status


class ApiCall:
    """A request, as handlers see it."""

    def __init__(self, http: HttpRequest, body: dict[str, Any]) -> None:
        self.http, self.body = http, Fields(body)
        self.state = http.app.state
        self.service: Service = self.state.service
        self.id: str = http.scope.get("ggrun.id", "")
        self.client: str = http.scope.get("ggrun.client", "")
        self.salt: str = http.scope.get("ggrun.salt", "")

    async def begin(self, request: AnswerRequest) -> Answers:
        """Have it answered. Raises Failure."""
        request.client, request.salt = self.client, request.salt + self.salt
        answer = await self.service.begin(request)
        self.http.scope["ggrun.answers"] = [*self.http.scope.get("ggrun.answers", ()), answer]
        return answer


Handler = Callable[[ApiCall], Awaitable[Any]]


class Stream:
    """An answer that is sent as it comes: pieces, already in the API's form. close: is called at its end, however that
    comes."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        close: Callable[[], None],
        media_type: str = SSE,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.pieces, self.close = pieces, close
        self.headers = {"content-type": media_type, **_STREAM_HEADERS, **(headers or {})}


class Endpoint:
    """Has a handler answer requests: with something to be sent as JSON, a Response, or a Stream."""

    def __init__(self, api: Api, handler: Handler) -> None:
        self._api, self._handler = api, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._respond(scope, receive, send)
        finally:
            for answer in scope.get("ggrun.answers", ()):  # whatever went wrong after it was begun
                answer.close()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = HttpRequest(scope, receive)
        try:
            call = ApiCall(http, await _body(http))
            result = await _unless_gone(receive, self._handler(call))
        except ClientDisconnect:
            return
        except Failure as failure:
            await failed(self._api, failure, scope)(scope, receive, send)
            return
        if result is None:
            return  # nobody is there any more
        if isinstance(result, Stream):
            await self._stream(result, scope, receive, send)
        else:
            response = result if isinstance(result, Response) else json_response(result)
            await response(scope, receive, send)

    async def _stream(self, stream: Stream, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in stream.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sender = _Sender(send)
        for answer in scope.get("ggrun.answers", ()):
            answer.streams = True

        async def produce() -> None:
            try:
                async for piece in stream.pieces:
                    await sender.send(piece)
            except Failure as failure:
                scope["ggrun.error"] = failure.kind
                await sender.send(self._api.event(failure, scope.get("ggrun.id", "")))
            await send({"type": "http.response.body", "body": b""})

        helpers = [asyncio.create_task(sender.ping(self._api.ping))] if self._api.ping else []
        try:
            await _unless_gone(receive, produce())
        finally:
            for helper in helpers:
                helper.cancel()
            stream.close()


class _Sender:
    """Sends pieces of a body, and something else whenever there was none for a while."""

    def __init__(self, send: Send) -> None:
        self._send, self._now = send, asyncio.get_running_loop().time
        self._last = self._now()

    async def send(self, piece: bytes) -> None:
        self._last = self._now()
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def ping(self, piece: bytes) -> None:
        while True:
            wait = self._last + _SILENCE - self._now()
            if wait <= 0:
                await self.send(piece)
                wait = _SILENCE
            await asyncio.sleep(wait)


def routes(api: Api, table: Mapping[str, Handler], methods: tuple[str, ...] = ("POST",)) -> list[Route]:
    """Routes of an API: path → handler."""
    return [Route(path, Endpoint(api, handler), methods=list(methods)) for path, handler in table.items()]


def failed(api: Api, failure: Failure, scope: Scope) -> Response:
    """The answer for what cannot be done."""
    response = json_response(api.error(failure, scope.get("ggrun.id", "")), api.status(failure))
    if failure.kind in ("timeout", "unsupported"):
        response.headers["x-should-retry"] = "false"  # it would take as long again, or be no more possible than now
    if failure.retry_after is not None:
        response.headers["retry-after"] = str(failure.retry_after)
    return response


def json_response(content: Any, status: int = 200) -> Response:
    return Response(encode(content), status, media_type="application/json")


def event(content: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + encode(content) + b"\n\n"


async def _body(http: HttpRequest) -> dict[str, Any]:
    """The body, an object; an empty one where there is none. Raises Failure."""
    if http.method in ("GET", "HEAD", "DELETE") and not http.headers.get("content-length"):
        return {}
    try:
        async with asyncio.timeout(_PATIENCE):
            raw = await http.body()
    except TimeoutError:
        raise Failure("invalid", f"the body did not come within {_PATIENCE} seconds") from None
    if not raw:
        return {}
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Failure("invalid", f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Failure("invalid", "the body must be a JSON object")
    return body


async def _unless_gone(receive: Receive, work: Awaitable[Any]) -> Any:
    """What the work gives; None where the client went away before, which ends it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for other in (task, gone):
            if not other.done():
                other.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await other


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

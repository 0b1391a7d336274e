"""A server with the web chat's files, whose answers are written beforehand: for what no tiny model says on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gguf_runtime.server.page import all_routes

MODELS = [
    {"id": "smollm2-135m-instruct", "meta": {"n_params": 134_515_008, "n_ctx_train": 8192, "size": 98_870_000}},
    {"id": "qwen3-8b-q4_k_m", "meta": {"n_params": 8_190_735_360, "n_ctx_train": 40_960, "size": 5_027_783_488}},
]
COUNTS = {
    "usage": {"prompt_tokens": 550, "completion_tokens": 212, "prompt_tokens_details": {"cached_tokens": 512}},
    "timings": {
        "cache_n": 512,
        "prompt_n": 38,
        "predicted_n": 212,
        "prompt_per_second": 412.7,
        "predicted_per_second": 41.3,
    },
}


class ChatPeer:
    """answers: what the next requests are answered with, each a list of deltas (or an error's status and body, or a
    number of seconds to wait); without any, "Echo: " and the last message. requests: the bodies that came. key: what
    is asked for. gone: how many clients went away before the end."""

    def __init__(self) -> None:
        self.models = MODELS
        self.answers: deque[Any] = deque()
        self.requests: list[dict[str, Any]] = []
        self.key = ""
        self.gone = 0
        routes = [
            *all_routes(),
            Route("/v1/models", self._list),
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
        ]
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self._server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="warning", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def reset(self) -> None:
        self.answers.clear()
        self.requests.clear()
        self.key, self.gone, self.models = "", 0, MODELS

    def say(self, *deltas: Any, finish: str | None = "stop") -> None:
        """Answer the next request with these: text, a delta, or seconds to wait."""
        self.answers.append((deltas, finish))

    def fail(self, status: int, message: str, **headers: str) -> None:
        """Answer the next request with an error."""
        self.answers.append(JSONResponse({"error": {"message": message}}, status, headers))

    def _refuses(self, request: Request) -> Response | None:
        if not self.key or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return JSONResponse({"error": {"message": "a key, please"}}, 401)

    async def _list(self, request: Request) -> Response:
        return self._refuses(request) or JSONResponse({"object": "list", "data": self.models})

    async def _complete(self, request: Request) -> Response:
        if refusal := self._refuses(request):
            return refusal
        body = await request.json()
        self.requests.append(body)
        answer = self.answers.popleft() if self.answers else (("Echo: ", body["messages"][-1]["content"]), "stop")
        if isinstance(answer, Response):
            return answer
        return StreamingResponse(self._chunks(body.get("model", ""), *answer), media_type="text/event-stream")

    async def _chunks(self, model: str, deltas: tuple[Any, ...], finish: str | None) -> AsyncIterator[str]:
        def event(**fields: Any) -> str:
            return f"data: {json.dumps({'object': 'chat.completion.chunk', 'model': model, **fields})}\n\n"

        def choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
            return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

        with self._counts_who_left():
            yield event(**choice({"role": "assistant", "content": None}))
            yield ": still here\n\n"
            for delta in deltas:
                if isinstance(delta, (int, float)):
                    await asyncio.sleep(delta)
                elif isinstance(delta, dict) and not {"error", "prompt_progress"}.isdisjoint(delta):
                    yield event(choices=[], **delta)
                else:
                    yield event(**choice({"content": delta} if isinstance(delta, str) else delta))
            if finish is not None:
                yield event(**choice({}, finish), timings=COUNTS["timings"])
                yield event(choices=[], usage=COUNTS["usage"])
                yield "data: [DONE]\n\n"

    @contextlib.contextmanager
    def _counts_who_left(self) -> Any:
        try:
            yield
        except asyncio.CancelledError:
            self.gone += 1
            raise

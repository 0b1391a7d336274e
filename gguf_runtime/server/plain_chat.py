"""A chat as tutorials have it: POST /chat with a message; the answer comes as the data of events.

    curl -N localhost:8080/chat -d '{"message": "Hello", "session_id": "me"}'
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct, field
from starlette.routing import Route

from .http import ApiCall, Stream, routes
from .openai import API
from .sampling_fields import max_tokens, set_sampling
from .vocabulary import AnswerRequest, TextDelta

_KEPT = 256  # sessions


class Sessions(Struct):
    """The last conversations, by who has them and their id."""

    kept: OrderedDict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=OrderedDict)

    def find(self, client: str, id: str) -> list[dict[str, Any]]:
        """A session's messages so far; none for a new one."""
        return self.kept.get((client, id), [])

    def keep(self, client: str, id: str, messages: list[dict[str, Any]]) -> None:
        self.kept[client, id] = messages
        self.kept.move_to_end((client, id))
        while len(self.kept) > _KEPT:
            self.kept.popitem(last=False)


async def chat(call: ApiCall) -> Stream:
    body, sessions = call.body, call.state.sessions
    message = body.required(body.text("message"), "message")
    id = body.text("session_id") or uuid.uuid4().hex
    messages = [*sessions.find(call.client, id), {"role": "user", "content": message}]
    if system := body.text("system", "system_prompt"):
        earlier = messages[1:] if messages[0]["role"] == "system" else messages
        messages = [{"role": "system", "content": system}, *earlier]
    request = AnswerRequest(model=body.text("model") or "", messages=messages)
    set_sampling(request, body)
    request.max_tokens = max_tokens(body, "max_tokens", "n_predict")
    answer = await call.begin(request)

    async def events() -> AsyncIterator[bytes]:
        parts: list[str] = []
        async for item in answer:
            if isinstance(item, TextDelta) and item.text and not item.is_thought:
                parts.append(item.text)
                yield _event(item.text)
        sessions.keep(call.client, id, [*messages, {"role": "assistant", "content": "".join(parts)}])
        yield _event("[DONE]")

    return Stream(events(), answer.close, headers={"x-session-id": id})


def _event(text: str) -> bytes:
    """Text as an event's data, a line for each of its lines."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return b"".join(b"data: " + line.encode() + b"\n" for line in lines) + b"\n"


def all_routes() -> list[Route]:
    return routes(API, {"/chat": chat})

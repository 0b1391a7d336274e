"""OpenAI's responses: the object, and the events in which it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from .http import encode
from .openai import error, new_id, now, progress, timings_of, token_facts
from .service import Answers
from .vocabulary import AnswerEvent, ArgumentsDelta, Failure, Finish, PromptProgress, TextDelta, Timings, ToolCall

_INCOMPLETE = {"length": "max_output_tokens", "context": "max_output_tokens"}


class ResponseWriter:
    """Writes one answer. response: the object as it is so far; failure: what has ended it instead."""

    def __init__(self, answer: Answers, told: dict[str, Any], *, tells_timings: bool = False) -> None:
        """told: what is repeated of the request. tells_timings: with every piece of text."""
        self._answer, self._tells_timings, self._number = answer, tells_timings, 0
        self._open: dict[str, Any] | None = None  # the item that is being written
        self._part: dict[str, Any] | None = None  # its part
        self._reason = ""
        self.failure: Failure | None = None
        self.response: dict[str, Any] = {
            "id": new_id("resp_"), "object": "response", "created_at": now(), "status": "in_progress",
            "model": answer.model.name, "output": [], **told, "usage": None, "error": None, "incomplete_details": None,
        }  # fmt: skip

    async def events(self) -> AsyncIterator[bytes]:
        """The response, event by event."""
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)
        try:
            async for item in self._answer:
                for piece in self._write(item):
                    yield piece
        except Failure as failure:
            told = error(failure, "")["error"]
            self.response |= {"status": "failed", "error": {"code": told["type"], "message": told["message"]}}
            self.failure = failure
            yield self._event("response.failed", response=self.response)
            return
        for piece in self._close("incomplete" if self._reason in _INCOMPLETE else "completed"):
            yield piece
        self.response["usage"] = _usage(self._answer.timings)
        costs = {"timings": timings_of(self._answer.timings)}
        if reason := _INCOMPLETE.get(self._reason):
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
            yield self._event("response.incomplete", response=self.response, **costs)
        else:
            self.response["status"] = "completed"
            yield self._event("response.completed", response=self.response, **costs)

    def message(self) -> dict[str, Any]:
        """The answer as a message of a conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for item in self.response["output"]:
            match item["type"]:
                case "message":
                    message["content"] = (message["content"] or "") + item["content"][0]["text"]
                case "reasoning":
                    message["reasoning_content"] = item["content"][0]["text"]
                case "function_call":
                    function = {"name": item["name"], "arguments": item["arguments"]}
                    call = {"id": item["call_id"], "type": "function", "function": function}
                    message.setdefault("tool_calls", []).append(call)
        return message

    def _write(self, item: AnswerEvent) -> Iterator[bytes]:
        match item:
            case TextDelta():
                yield from self._text(item)
            case ToolCall():
                call = {"call_id": item.id, "name": item.name, "arguments": ""}
                yield from self._begin("function_call", "fc_", call)
            case ArgumentsDelta() if self._open:
                self._open["arguments"] += item.text
                yield self._of_item("response.function_call_arguments.delta", delta=item.text)
            case PromptProgress():
                facts = {"prompt_progress": progress(item), "timings": timings_of(item.timings)}
                yield self._event("response.in_progress", response=self.response, **facts)
            case Finish():
                self._reason = item.reason

    def _text(self, item: TextDelta) -> Iterator[bytes]:
        kind = "reasoning" if item.is_thought else "message"
        if not self._open or self._open["type"] != kind:
            if item.is_thought:
                yield from self._begin(kind, "rs_", {"summary": [], "content": []})
                yield self._begin_part({"type": "reasoning_text", "text": ""})
            else:
                yield from self._begin(kind, "msg_", {"role": "assistant", "content": []})
                yield self._begin_part({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
        assert self._part
        self._part["text"] += item.text
        if item.is_thought:
            yield self._of_item("response.reasoning_text.delta", content_index=0, delta=item.text)
            return
        logprobs = []
        if self._answer.request.n_logprobs is not None:
            logprobs = [token_facts(token, self._answer.model.texts) for token in item.tokens]
            self._part["logprobs"] += logprobs
        costs = {"timings": timings_of(self._answer.timings)} if self._tells_timings else {}
        yield self._of_item(
            "response.output_text.delta", content_index=0, delta=item.text, logprobs=logprobs, **costs
        )

    def _begin(self, kind: str, prefix: str, facts: dict[str, Any]) -> Iterator[bytes]:
        yield from self._close("completed")
        self._open = {"id": new_id(prefix), "type": kind, "status": "in_progress", **facts}
        self.response["output"].append(self._open)
        yield self._event("response.output_item.added", output_index=self._index, item=self._open)

    def _begin_part(self, part: dict[str, Any]) -> bytes:
        assert self._open
        self._part = part
        self._open["content"].append(part)
        return self._of_item("response.content_part.added", content_index=0, part=part)

    def _close(self, status: str) -> Iterator[bytes]:
        """The end of the item that is being written."""
        item, part = self._open, self._part
        if item is None:
            return
        if item["type"] == "function_call":
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield self._of_item("response.function_call_arguments.done", **done)
        elif part:
            if item["type"] == "message":
                done = {"text": part["text"], "logprobs": part["logprobs"]}
                yield self._of_item("response.output_text.done", content_index=0, **done)
            else:
                yield self._of_item("response.reasoning_text.done", content_index=0, text=part["text"])
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        item["status"] = status
        yield self._event("response.output_item.done", output_index=self._index, item=item)
        self._open = self._part = None

    @property
    def _index(self) -> int:
        return len(self.response["output"]) - 1

    def _of_item(self, kind: str, **facts: Any) -> bytes:
        assert self._open
        return self._event(kind, item_id=self._open["id"], output_index=self._index, **facts)

    def _event(self, kind: str, **facts: Any) -> bytes:
        body = encode({"type": kind, "sequence_number": self._number, **facts})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"


def _usage(timings: Timings) -> dict[str, Any]:
    return {
        "input_tokens": timings.n_prompt,
        "input_tokens_details": {"cached_tokens": timings.n_cached},
        "output_tokens": timings.n_answer,
        "output_tokens_details": {"reasoning_tokens": timings.n_thought},
        "total_tokens": timings.n_prompt + timings.n_answer,
    }

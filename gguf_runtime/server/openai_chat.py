"""OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ..chat.messages import ROLES
from .fields import Fields
from .http import ApiCall, Stream, event
from .llama_server_answer import AnswerText
from .openai import FINGERPRINT, new_id, now, progress, set_common, timings_of, token_facts, usage
from .sampling_fields import max_tokens, set_sampling, set_schema
from .service import Answers
from .vocabulary import (
    AnswerEvent,
    AnswerRequest,
    ArgumentsDelta,
    Done,
    Failure,
    Finish,
    PromptProgress,
    TextDelta,
    ToolCall,
)

MOST_CHOICES = 16
_ROLES = (*ROLES, "function")  # the old name of tool
_REASONS = {"end": "stop", "stop": "stop", "length": "length", "context": "length", "tool_calls": "tool_calls"}


async def chat_completions(call: ApiCall) -> Any:
    request = chat_request(call)
    answer = await call.begin(request)
    if call.body.flag("stream"):
        options = call.body.within("stream_options")
        wants_usage = bool(options and options.flag("include_usage"))
        return Stream(_chunks(answer, wants_usage, bool(call.body.flag("timings_per_token"))), answer.close)
    try:
        return await _whole(answer)
    finally:
        answer.close()


async def count_chat(call: ApiCall) -> Any:
    """How many tokens a conversation has."""
    _, ids = await call.service.read(chat_request(call))
    return {"object": "response.input_tokens", "input_tokens": len(ids)}


def chat_request(call: ApiCall) -> AnswerRequest:
    """What a body asks for. Raises Failure."""
    body = call.body
    request = AnswerRequest(model=body.text("model") or "", messages=read_messages(body))
    set_sampling(request, body)
    set_common(request, call)
    request.max_tokens = max_tokens(body, "max_completion_tokens", "max_tokens", "n_predict")
    request.n = body.whole("n", least=1, most=MOST_CHOICES) or 1
    _set_logprobs(request, body)
    _set_tools(request, body)
    _set_format(request, body)
    _set_thinking(request, body)
    _set_continuation(request, body)
    if request.tools and {"grammar", "json_schema", "regex"} & set(request.sampling):
        raise Failure("invalid", "tools and a grammar for the answer exclude each other", field="tools")
    return request


def read_messages(body: Fields) -> list[dict[str, Any]]:
    """The conversation. Raises Failure."""
    messages = body.objects("messages")
    if not messages:
        raise Failure("invalid", "messages must be a list of at least one message", field="messages")
    for message in messages:
        role = message.required(message.text("role"), "role")
        if role not in _ROLES:
            raise message.wrong("role", f"one of {', '.join(_ROLES)}", role)
        content = message.any("content")
        if content is not None and not isinstance(content, str | list):
            raise message.wrong("content", "text, or a list of parts", content)
        message.objects("tool_calls")
    return [dict(message.body) for message in messages]


def _set_logprobs(request: AnswerRequest, body: Fields) -> None:
    n = body.whole("top_logprobs", least=0, most=20)
    wanted = body.any("logprobs")
    if isinstance(wanted, int) and not isinstance(wanted, bool):  # as completions have it
        n, wanted = wanted if n is None else n, wanted > 0
    elif wanted is not None:
        wanted = body.flag("logprobs")
    if n and not wanted:
        raise Failure("invalid", "top_logprobs needs logprobs to be true", field="top_logprobs")
    if wanted:
        request.n_logprobs = n or 0


def _set_tools(request: AnswerRequest, body: Fields) -> None:
    for tool in body.objects("tools"):
        if (kind := tool.required(tool.text("type"), "type")) != "function":
            raise tool.wrong("type", "function", kind)
        function = tool.required(tool.within("function"), "function")
        function.required(function.text("name"), "name")
        function.object("parameters")
        request.tools.append(dict(tool.body))
    choice = body.any("tool_choice")
    if choice is not None:
        if not isinstance(choice, dict) and choice not in ("auto", "none", "required"):
            raise body.wrong("tool_choice", "auto, none, required, or an object", choice)
        request.tool_choice = choice
    request.parallel_tool_calls = body.flag("parallel_tool_calls") is not False


def _set_format(request: AnswerRequest, body: Fields) -> None:
    """What form the answer is to have. Raises Failure."""
    form = body.within("response_format")
    if form is None:
        return
    match kind := form.text("type"):
        case None | "text" if "schema" not in form:
            pass
        case None | "text":
            set_schema(request, form.any("schema"), "response_format.schema")
        case "json_object":
            set_schema(request, form.any("schema") or {"type": "object"}, "response_format.schema")
        case "json_schema":
            inner = form.within("json_schema") or form
            schema = form.required(inner.any("schema"), "json_schema.schema")
            set_schema(request, schema, "response_format.json_schema.schema")
        case _:
            raise form.wrong("type", "text, json_object or json_schema", kind)


def _set_thinking(request: AnswerRequest, body: Fields) -> None:
    request.template |= body.object("chat_template_kwargs") or {}
    effort = body.text("reasoning_effort")
    if effort == "none":
        request.template.setdefault("enable_thinking", False)
    elif effort is not None:
        request.template.setdefault("reasoning_effort", effort)
    request.max_thought = max_tokens(body, "reasoning_budget_tokens", "thinking_budget_tokens")
    if (form := body.text("reasoning_format")) is not None and form != "auto":
        request.splits_thoughts = form != "none"


def _set_continuation(request: AnswerRequest, body: Fields) -> None:
    begins, continues = body.flag("add_generation_prompt"), body.flag("continue_final_message")
    if begins and continues:
        raise Failure("invalid", "add_generation_prompt and continue_final_message exclude each other")
    last = (request.messages or [{}])[-1]
    is_beginning = last.get("role") == "assistant" and not last.get("tool_calls")
    request.continues = is_beginning and not begins
    if begins is False and not request.continues:
        request.template["add_generation_prompt"] = False


async def _whole(answer: Answers) -> dict[str, Any]:
    """The answer in one piece."""
    choices = [_Message(answer) for _ in range(answer.request.n)]
    first = AnswerText(answer)
    async for item in answer:
        if not isinstance(item, Done | PromptProgress):
            choices[item.index].add(item)
            if item.index == 0:
                first.add(item)
    return {
        "id": new_id("chatcmpl-"), "object": "chat.completion", "created": now(), "model": answer.model.name,
        "system_fingerprint": FINGERPRINT,
        "choices": [{"index": i, **choice.facts()} for i, choice in enumerate(choices)],
        "usage": usage(answer.timings), "timings": timings_of(answer.timings), **_verbose(first),
    }  # fmt: skip


def _verbose(text: AnswerText) -> dict[str, Any]:
    """As llama-server has it, for those who want to see what a model reads."""
    return {"__verbose": text.facts(tells_tokens=True)} if text.answer.request.tells_prompt else {}


class _Message:
    """A message in the making."""

    def __init__(self, answer: Answers) -> None:
        self._answer = answer
        self._text: list[str] = []
        self._thought: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._tokens: list[dict[str, Any]] = []
        self._reason = ""

    def add(self, item: AnswerEvent) -> None:
        match item:
            case TextDelta():
                (self._thought if item.is_thought else self._text).append(item.text)
                if self._answer.request.n_logprobs is not None:
                    self._tokens += [token_facts(token, self._answer.model.texts) for token in item.tokens]
            case ToolCall():
                function = {"name": item.name, "arguments": ""}
                self._calls.append({"id": item.id, "type": "function", "function": function})
            case ArgumentsDelta():
                self._calls[item.number]["function"]["arguments"] += item.text
            case Finish():
                self._reason = _REASONS[item.reason]

    def facts(self) -> dict[str, Any]:
        text, thought = "".join(self._text), "".join(self._thought)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not self._calls else None}
        if thought:
            message |= {"reasoning_content": thought, "reasoning": thought}
        if self._calls:
            message["tool_calls"] = self._calls
        message["refusal"] = None
        logprobs = {"content": self._tokens} if self._answer.request.n_logprobs is not None else None
        return {"message": message, "logprobs": logprobs, "finish_reason": self._reason}


async def _chunks(answer: Answers, wants_usage: bool, tells_timings: bool) -> AsyncIterator[bytes]:
    """The answer as it comes."""
    head = {
        "id": new_id("chatcmpl-"), "object": "chat.completion.chunk", "created": now(), "model": answer.model.name,
        "system_fingerprint": FINGERPRINT,
    }  # fmt: skip
    texts, tells_tokens = answer.model.texts, answer.request.n_logprobs is not None

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**head, "choices": [choice], **more}

    for index in range(answer.request.n):
        yield event(chunk(index, {"role": "assistant", "content": None}))
    first = AnswerText(answer)
    last: dict[str, Any] | None = None  # is sent once it is known whether it is the last
    async for item in answer:
        if last and not isinstance(item, Done):
            yield event(last)
            last = None
        if isinstance(item, TextDelta | Finish) and item.index == 0:
            first.add(item)
        match item:
            case TextDelta():
                names = ("reasoning_content", "reasoning") if item.is_thought else ("content",)
                piece = chunk(item.index, dict.fromkeys(names, item.text) if item.text else {})
                if tells_tokens:
                    facts = [token_facts(token, texts) for token in item.tokens]
                    piece["choices"][0]["logprobs"] = {"content": facts}
                if tells_timings:
                    piece["timings"] = timings_of(answer.timings)
                yield event(piece)
            case ToolCall():
                function = {"name": item.name, "arguments": ""}
                call = {"index": item.number, "id": item.id, "type": "function", "function": function}
                yield event(chunk(item.index, {"tool_calls": [call]}))
            case ArgumentsDelta():
                call = {"index": item.number, "function": {"arguments": item.text}}
                yield event(chunk(item.index, {"tool_calls": [call]}))
            case Finish():
                last = chunk(item.index, {}, _REASONS[item.reason])
            case PromptProgress():
                costs: dict[str, Any] = {"timings": timings_of(item.timings)} if tells_timings else {}
                yield event(chunk(0, {}, prompt_progress=progress(item), **costs))
            case Done() if last:
                timings = {"timings": timings_of(item.timings)}
                if wants_usage:
                    yield event(last)
                    last = {**head, "choices": [], "usage": usage(item.timings)}
                yield event({**last, **timings, **_verbose(first)})
    yield b"data: [DONE]\n\n"

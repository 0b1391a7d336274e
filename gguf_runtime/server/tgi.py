"""Text Generation Inference's API, which huggingface_hub's InferenceClient speaks with a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.routing import Route

from .. import __version__
from .fields import Fields
from .http import Api, ApiCall, Stream, encode, routes
from .models import ServedModel
from .openai import finite
from .sampling_fields import max_tokens, set_sampling, set_schema
from .service import Answers
from .vocabulary import AnswerRequest, Done, Failure, Finish, Kind, TextDelta, Token

_TYPES: dict[Kind, str] = {
    "busy": "overloaded", "failed": "generation", "invalid": "validation", "too_long": "validation",
}  # fmt: skip
_REASONS = {"end": "eos_token", "stop": "stop_sequence", "length": "length", "context": "length"}
_MAX_NEW_TOKENS = 100  # where a body says nothing
_SAMPLES = ("temperature", "top_k", "top_p", "typical_p")  # any of them has tokens drawn


def error(failure: Failure, id: str) -> dict[str, Any]:
    return {"error": failure.message, "error_type": _TYPES.get(failure.kind, failure.kind)}


API = Api(
    error,
    lambda failure, id: b"data:" + encode(error(failure, id)) + b"\n\n",
    b": still at it\n\n",
    status=lambda failure: 422 if failure.kind in ("invalid", "too_long") else failure.status,
)


async def root(call: ApiCall) -> Any:
    """As of the Inference API: a stream where the body wants one, else a list of one."""
    if call.body.flag("stream"):
        return await generate_stream(call)
    return [await generate(call)]


async def generate(call: ApiCall) -> Any:
    answer = await call.begin(_request(call))
    tokens: list[Token] = []
    parts: list[str] = []
    finish = Finish(0, "length")
    try:
        async for item in answer:
            if isinstance(item, TextDelta):
                tokens += item.tokens
                parts.append(item.text)
            elif isinstance(item, Finish):
                finish = item
    finally:
        answer.close()
    found: dict[str, Any] = {"generated_text": _prefix(call, answer) + "".join(parts)}
    if _parameters(call).flag("details"):
        listed = [_token(answer, token) for token in tokens]
        found["details"] = {**_details(answer, finish), "prefill": [], "tokens": listed, "top_tokens": []}
    return found


async def generate_stream(call: ApiCall) -> Stream:
    answer = await call.begin(_request(call))
    return Stream(_events(call, answer), answer.close)


async def info(call: ApiCall) -> Any:
    model: ServedModel = call.service.models.find("")
    async with call.service.models.use(model):
        return {
            "model_id": model.name, "model_sha": None, "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": model.turns.n_parallel + model.turns.n_waiting, "max_best_of": 1,
            "max_stop_sequences": 16, "max_input_tokens": model.n_ctx - 1, "max_total_tokens": model.n_ctx,
            "validation_workers": 1, "max_client_batch_size": 1, "router": "ggrun", "version": __version__,
            "sha": None, "docker_label": None,
        }  # fmt: skip


def _parameters(call: ApiCall) -> Fields:
    return call.body.within("parameters") or Fields({}, "parameters")


def _request(call: ApiCall) -> AnswerRequest:
    """Raises Failure."""
    prompt = call.body.required(call.body.text("inputs"), "inputs")
    parameters = _parameters(call)
    request = AnswerRequest(model=call.body.text("model") or "", prompt=prompt, n_logprobs=0)
    request.defaults |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
    samples = parameters.flag("do_sample") or any(name in parameters for name in _SAMPLES)
    grammar = parameters.object("grammar")
    set_sampling(request, Fields({name: value for name, value in parameters.body.items() if name != "grammar"}))
    if not samples:
        request.sampling["temperature"] = 0.0
    n = max_tokens(parameters, "max_new_tokens")
    request.max_tokens = _MAX_NEW_TOKENS if n is None else n
    if grammar:
        kind, value = grammar.get("type"), grammar.get("value")
        if kind in ("json", "json_object"):
            set_schema(request, value, "grammar.value")
        elif kind == "regex" and isinstance(value, str):
            request.sampling["regex"] = value
        else:
            raise Failure("invalid", "grammar must be of type json or regex, with its value", field="grammar")
    return request


async def _events(call: ApiCall, answer: Answers) -> AsyncIterator[bytes]:
    """A line a token. The last one, which has the whole text too, waits for how the answer ends."""
    held: dict[str, Any] | None = None
    parts: list[str] = []
    n, finish = 0, Finish(0, "length")
    async for item in answer:
        if isinstance(item, TextDelta):
            parts.append(item.text)
            for i, token in enumerate(item.tokens or [Token(-1)]):
                if held:
                    yield _event(held)
                is_last = i >= len(item.tokens) - 1  # a character's first tokens have no text of their own
                n += 1
                told = {**_token(answer, token), "text": item.text if is_last else ""}
                held = {"index": n, "token": told, "generated_text": None, "details": None}
        elif isinstance(item, Finish):
            finish = item
        elif isinstance(item, Done):
            held = held or {"index": 0, "token": {"id": -1, "text": "", "logprob": 0.0, "special": True}}
            text = _prefix(call, answer) + "".join(parts)
            yield _event({**held, "generated_text": text, "details": _details(answer, finish)})


def _event(content: dict[str, Any]) -> bytes:
    return b"data:" + encode(content) + b"\n\n"


def _prefix(call: ApiCall, answer: Answers) -> str:
    return answer.text if _parameters(call).flag("return_full_text") else ""


def _token(answer: Answers, token: Token) -> dict[str, Any]:
    tokenizer = answer.model.texts.tokenizer
    text = tokenizer.token_bytes(token.id).decode(errors="replace") if token.id >= 0 else ""
    special = token.id < 0 or token.id in tokenizer.special_ids
    return {"id": token.id, "text": text, "logprob": finite(token.logprob), "special": special}


def _details(answer: Answers, finish: Finish) -> dict[str, Any]:
    timings = answer.timings
    return {
        "finish_reason": _REASONS.get(finish.reason, "eos_token"), "generated_tokens": timings.n_answer,
        "input_length": timings.n_prompt, "seed": answer.request.sampling.get("seed"),
    }  # fmt: skip


def all_routes() -> list[Route]:
    return [
        *routes(API, {"/": root, "/generate": generate, "/generate_stream": generate_stream}),
        *routes(API, {"/info": info}, ("GET",)),
    ]

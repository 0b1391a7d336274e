"""How tokens are to be chosen, as bodies say it: by the names of OpenAI, llama-server and vLLM."""

from __future__ import annotations

from typing import Any

from .fields import Fields
from .vocabulary import AnswerRequest, Failure

_REAL = (
    "temperature", "dynatemp_range", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold",
    "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base", "mirostat_tau", "mirostat_eta",
)  # fmt: skip
_WHOLE = ("top_k", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n", "mirostat", "seed")
_OTHER_NAMES = {
    "dynatemp_exponent": ("dynatemp_exponent", "dynatemp_exp"),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),
}
_LETTERS = {
    "e": "penalties", "d": "dry", "k": "top_k", "y": "typ_p", "p": "top_p", "s": "top_n_sigma", "m": "min_p",
    "x": "xtc", "t": "temperature",
}  # fmt: skip
_SAMPLERS = {"typical_p": "typ_p", "tfs_z": "", "infill": ""}
_MOST_STOPS = 16


def set_sampling(request: AnswerRequest, body: Fields) -> None:
    """Fill in what the body says of sampling, stopping and grammars. Raises Failure."""
    found: dict[str, Any] = {name: body.real(name) for name in _REAL}
    found |= {name: body.whole(name) for name in _WHOLE}
    found |= {name: body.real(*names) for name, names in _OTHER_NAMES.items()}
    found["dry_sequence_breakers"] = body.texts("dry_sequence_breakers")
    found["samplers"] = _samplers(body)
    request.sampling |= {name: value for name, value in found.items() if value is not None}
    if (seed := request.sampling.get("seed")) is not None and seed >= 1 << 32:
        request.sampling["seed"] = seed % (1 << 32)
    request.stop = stops(body)
    request.stop_tokens = [_token("stop_token_ids", id) for id in body.array("stop_token_ids") or ()]
    request.ignore_eos = bool(body.flag("ignore_eos"))
    request.special = body.flag("skip_special_tokens") is False
    _set_bias(request, body)
    _set_grammar(request, body)


def stops(body: Fields, name: str = "stop") -> list[str]:
    found = body.texts(name) or []
    if len(found) > _MOST_STOPS:
        raise Failure("invalid", f"{name} has {len(found)} texts, and may have {_MOST_STOPS}", field=name)
    return [text for text in found if text]


def max_tokens(body: Fields, *names: str) -> int | None:
    """A limit of tokens; None, also for -1, is as many as there is room for."""
    n = body.whole(*names, least=-2)
    return None if n is None or n < 0 else n


def set_schema(request: AnswerRequest, schema: Any, field: str) -> None:
    """Hold the answer to a JSON schema."""
    if not isinstance(schema, dict | bool):
        raise Failure("invalid", f"{field} must be a JSON schema", field=field)
    request.sampling["json_schema"] = schema


def _set_bias(request: AnswerRequest, body: Fields) -> None:
    value = body.any("logit_bias")
    if value is None:
        return
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise body.wrong("logit_bias", "an object, or a list of pairs", value)
    for key, bias in pairs:
        if bias is False:
            bias = float("-inf")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise body.wrong("logit_bias", "of numbers, or false", bias)
        try:
            amount = float(bias)
        except OverflowError:
            raise Failure("invalid", "logit_bias: a number is too large", field="logit_bias") from None
        if isinstance(key, str) and not key.lstrip("-").isdecimal():
            request.bias_texts.append((key, amount))
        else:
            request.sampling.setdefault("logit_bias", {})[_token("logit_bias", key)] = amount


def _token(name: str, id: Any) -> int:
    if isinstance(id, str) and id.isdecimal():
        return int(id)
    if isinstance(id, bool) or not isinstance(id, int):
        raise Failure("invalid", f"{name}: {id!r} is not a token id", field=name)
    return id


def _samplers(body: Fields) -> list[str] | None:
    value = body.any("samplers")
    if value is None:
        return None
    names: list[str]
    if isinstance(value, str):
        names = [_LETTERS.get(letter, "") for letter in value]
    else:
        names = [_SAMPLERS.get(name, name) for name in body.texts("samplers") or ()]
    return [name for name in names if name]


def _set_grammar(request: AnswerRequest, body: Fields) -> None:
    """Of llama-server's fields, and of vLLM's."""
    choice: Any = None
    if (schema := body.any("json_schema", "guided_json")) is not None:
        set_schema(request, schema, "json_schema")
    if (grammar := body.text("grammar", "guided_grammar")) is not None and grammar:
        request.sampling["grammar"] = grammar
    if (regex := body.text("guided_regex")) is not None:
        request.sampling["regex"] = regex
    choice = body.texts("guided_choice")
    if held := body.within("structured_outputs"):
        if "json" in held:
            schema = held.any("json")
            set_schema(request, schema, "structured_outputs.json")
        found = {name: held.text(name) for name in ("regex", "grammar")}
        request.sampling |= {name: value for name, value in found.items() if value is not None}
        choice = held.texts("choice") or choice
    if choice:
        set_schema(request, {"type": "string", "enum": choice}, "choice")

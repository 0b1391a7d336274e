"""An answer as llama-server tells it: the text, what it cost, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .openai import finite, timings_of
from .service import Answers
from .texts import ModelTexts
from .vocabulary import AnswerRequest, Finish, TextDelta, Token

_STOPS = {"end": "eos", "stop": "word", "length": "limit", "context": "limit", "tool_calls": "eos"}
_NEVER_SAID = ("json_schema", "regex", "lark")  # llama-server has no such fields

#: What ggrun has not, as it is where llama-server does not use it.
_UNUSED = {
    "adaptive_target": -1.0, "adaptive_decay": 0.9, "n_discard": 0, "min_keep": 0, "grammar_lazy": False,
    "grammar_triggers": [], "preserved_tokens": [], "backend_sampling": False, "lora": [],
}  # fmt: skip


class AnswerText:
    """Gathers one answer. index: its number among those to one request."""

    def __init__(self, answer: Answers, index: int = 0) -> None:
        self.answer, self.index = answer, index
        self._parts: list[str] = []
        self.tokens: list[Token] = []
        self._finish: Finish | None = None

    def add(self, item: Any) -> None:
        if isinstance(item, TextDelta):
            self._parts.append(item.text)
            self.tokens += item.tokens
        elif isinstance(item, Finish):
            self._finish = item

    def facts(self, *, tells_tokens: bool = False) -> dict[str, Any]:
        """All that llama-server tells at the end."""
        text, answer, timings = "".join(self._parts), self.answer, self.answer.timings
        finish, n = self._finish or Finish(0, "length"), timings.n_prompt + timings.n_answer
        facts: dict[str, Any] = {
            "index": self.index, "content": text, "tokens": [token.id for token in self.tokens] if tells_tokens else [],
            "id_slot": self.index, "stop": True, "model": answer.model.name,
            "tokens_predicted": timings.n_answer, "tokens_evaluated": timings.n_prompt,
            "generation_settings": settings(answer.request, answer.model.texts),
            "prompt": answer.model.texts.tokenizer.decode(answer.prompt), "has_new_line": "\n" in text,
            "truncated": finish.reason == "context" or n > answer.model.n_ctx, "stop_type": _STOPS[finish.reason],
            "stopping_word": finish.stop or "", "tokens_cached": n,
            "timings": timings_of(timings),
        }  # fmt: skip
        if answer.request.n_logprobs is not None:
            facts["completion_probabilities"] = probabilities(answer, self.tokens)
        return facts


def probabilities(answer: Answers, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """How likely tokens were, as the model has it, or as they were drawn."""
    texts, as_drawn = answer.model.texts, answer.request.as_drawn
    top = "top_probs" if as_drawn else "top_logprobs"
    return [
        {
            **_likely(token.id, token.logprob, texts, as_drawn),
            top: [_likely(*likely, texts, as_drawn) for likely in token.top],
        }
        for token in tokens
    ]


def _likely(id: int, logprob: float | None, texts: ModelTexts, as_drawn: bool) -> dict[str, Any]:
    data = texts.tokenizer.token_bytes(id)
    chance = {"prob": math.exp(finite(logprob))} if as_drawn else {"logprob": finite(logprob)}
    return {"id": id, "token": data.decode(errors="replace"), "bytes": list(data), **chance}


def settings(request: AnswerRequest, texts: ModelTexts | None = None) -> dict[str, Any]:
    """How an answer is made, by llama-server's names. texts: of the model, whose ends of text ignore_eos forbids."""
    n = -1 if request.max_tokens is None else request.max_tokens
    never = sorted(texts.tokenizer.eog_ids) if texts and request.ignore_eos else ()
    biases = {**request.sampling.get("logit_bias", {}), **dict.fromkeys(never, -math.inf)}
    return {
        **sampling(request.sampling), **_UNUSED,
        "stop": request.stop, "max_tokens": n, "n_predict": n, "n_keep": 0, "ignore_eos": request.ignore_eos,
        "stream": False, "n_probs": request.n_logprobs or 0, "post_sampling_probs": request.as_drawn,
        "logit_bias": [{"token": id, "bias": bias if math.isfinite(bias) else None} for id, bias in biases.items()],
        "reasoning_format": "none" if request.splits_thoughts is False else "deepseek", "timings_per_token": False,
    }  # fmt: skip


def sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """All of how tokens are chosen, for what of it is given."""
    from dataclasses import asdict

    from ..sampling import SamplingParams

    found = {name: value for name, value in asdict(SamplingParams(**given)).items() if name not in _NEVER_SAID}
    return {**found, "seed": -1 if found["seed"] is None else found["seed"], "grammar": found["grammar"] or ""}

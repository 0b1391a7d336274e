"""What the command line says of all requests."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from .vocabulary import AnswerRequest


class Policy(Struct, frozen=True, kw_only=True):
    """What requests leave open, and what the server offers.

    max_seconds: that an answer may take. sampling: fields of SamplingParams; options: others of LLM.stream.
    max_tokens, stop, ignore_eos, template, max_thought, splits_thoughts: as in Request. pooling: of embeddings;
    None for the model's own. tags: of the models, for those who list them. tells_prompts: answers tell how they
    were asked for. slots, metrics, page: what there is to be seen.
    """

    max_seconds: float | None = None
    max_tokens: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    template: dict[str, Any] = field(default_factory=dict)
    max_thought: int | None = None
    splits_thoughts: bool = True
    pooling: str | None = None
    tags: tuple[str, ...] = ()
    tells_prompts: bool = False
    slots: bool = True
    metrics: bool = True
    page: bool = True

    def complete(self, request: AnswerRequest) -> None:
        """Fill in what a request leaves open."""
        request.defaults |= self.sampling
        request.stop = request.stop or [*self.stop]
        request.ignore_eos = request.ignore_eos or self.ignore_eos
        request.template = {**self.template, **request.template}
        if request.splits_thoughts is None:
            request.splits_thoughts = self.splits_thoughts
        if request.tells_prompt is None:
            request.tells_prompt = self.tells_prompts
        if request.max_thought is None:
            request.max_thought = self.max_thought
        if request.max_tokens is None:
            request.max_tokens = self.max_tokens

"""What an API's route makes of a body, and what comes back: the words that all APIs have in common."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field


class AnswerRequest(Struct, kw_only=True):
    """An answer, or several, to be made.

    model: a name, "" for the one that is served. Either messages, with tools and variables for the chat template, or a
    prompt: text or token ids, or both mixed; suffix: text that follows, where a middle is wanted. continues: the last
    message is the beginning of the answer. before: token ids that go before all that. max_tokens: None for what the
    context has room for. stop: strings that end the answer and are no part of it; stop_tokens: token ids that do.
    sampling: fields of SamplingParams, and defaults: those of the API; bias_texts: what to add to logits of texts'
    tokens. n_logprobs: how many of the likeliest tokens to tell at each place, beside the one that was drawn; None:
    nothing of the kind; as_drawn: after sampling's filters, rather than the model's own. tells_tokens: token ids are
    wanted, also of the last ones where these give no text. special: control tokens give text too. splits_thoughts: tell
    thoughts from the answer; None: as the server has it. max_thought: tokens of a thought.
    progress: events of that kind are wanted. tells_prompt: the answer is to tell what the model read; None: as the
    server has it. cache: use what is computed of other requests. salt, client: whose cache
    it uses, and with whom it takes turns. priority: lower goes first. keep_alive: seconds for which the model stays
    loaded afterwards, None for the default.
    """

    model: str = ""
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    template: dict[str, Any] = field(default_factory=dict)
    continues: bool = False
    before: list[int] = field(default_factory=list)
    prompt: str | list[int | str] | None = None
    suffix: str | None = None
    n: int = 1
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_tokens: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    bias_texts: list[tuple[str, float]] = field(default_factory=list)
    n_logprobs: int | None = None
    as_drawn: bool = False
    tells_tokens: bool = False
    special: bool = False
    splits_thoughts: bool | None = None
    max_thought: int | None = None
    progress: bool = False
    tells_prompt: bool | None = None
    cache: bool = True
    salt: str = ""
    client: str = ""
    priority: int = 0
    keep_alive: float | None = None


class EmbeddingRequest(Struct, kw_only=True):
    """Texts, or their token ids, or both mixed, to be embedded, or with a query to be ranked by it. options: of
    LLM.embedding_job. Others as in Request."""

    model: str = ""
    texts: list[str | list[int | str]]
    query: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    keep_alive: float | None = None


class Token(Struct):
    """A token of an answer. logprob: of the model's own distribution; top: the likeliest there, with theirs."""

    id: int
    logprob: float | None = None
    top: list[tuple[int, float]] = field(default_factory=list)


class TextDelta(Struct):
    """More of the answer, or of a thought. tokens: those that came with it; the text of some may come later."""

    index: int  # which answer of those asked for
    text: str
    tokens: list[Token]
    is_thought: bool = False


class ToolCall(Struct):
    """A call of a tool begins. number: which of the answer's calls; its arguments come as Arguments."""

    index: int
    number: int
    id: str
    name: str


class ArgumentsDelta(Struct):
    """More of a call's arguments; all of them joined are one JSON object."""

    index: int
    number: int
    text: str


class PromptProgress(Struct):
    """How far the prompt is computed: tokens in all, of these cached, and done."""

    n_prompt: int
    n_cached: int
    n_done: int
    seconds: float

    @property
    def timings(self) -> Timings:
        """What the prompt has cost so far: that much of it."""
        return Timings(n_prompt=self.n_done, n_cached=self.n_cached, prompt_seconds=self.seconds)


Reason = Literal["end", "stop", "length", "context", "tool_calls"]


class Finish(Struct):
    """An answer has ended: by the model, a stop string (which), the limit, a full context, or with calls."""

    index: int
    reason: Reason
    stop: str | None = None


class Timings(Struct):
    """What an answer has cost: tokens and seconds."""

    n_prompt: int = 0
    n_cached: int = 0  # of the prompt, computed for other requests before
    n_answer: int = 0
    n_thought: int = 0  # of these, in thoughts
    n_drafts: int = 0  # steps with guesses, and the tokens that were guessed, and that proved right
    n_drafted: int = 0
    n_accepted: int = 0
    prompt_seconds: float = 0.0
    answer_seconds: float = 0.0  # from the first token to the last
    queue_seconds: float = 0.0
    load_seconds: float = 0.0

    @property
    def n_new(self) -> int:
        return self.n_prompt - self.n_cached


class Done(Struct):
    """All answers have ended."""

    timings: Timings


AnswerEvent = TextDelta | ToolCall | ArgumentsDelta | PromptProgress | Finish | Done

Kind = Literal[
    "invalid", "unauthorized", "forbidden", "not_found", "no_model", "wrong_method", "too_large", "too_long", "busy",
    "failed", "unsupported", "loading", "timeout",
]  # fmt: skip


class Failure(Exception):
    """What cannot be done, for the route to tell in its API's form.

    field: of the body, that is wrong. facts: numbers that go with it. retry_after: seconds.
    """

    def __init__(
        self, kind: Kind, message: str, *, field: str | None = None, retry_after: int | None = None, **facts: Any
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.field, self.retry_after, self.facts = kind, message, field, retry_after, facts

    @property
    def status(self) -> int:
        return _STATUS[self.kind]


_STATUS: dict[Kind, int] = {
    "invalid": 400, "unauthorized": 401, "forbidden": 403, "not_found": 404, "no_model": 404, "wrong_method": 405,
    "too_large": 413, "too_long": 400, "busy": 429, "failed": 500, "unsupported": 501, "loading": 503,
    "timeout": 504,
}  # fmt: skip

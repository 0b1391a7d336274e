"""What the HTTP process and a model's engine process say to each other: msgpack, each message after its length.

To the engine: first Load, then Generate, EmbedTexts and Cancel. From it: Loaded or Failed, then a StepReport after each
step, with all that it gave, Embedded for what was embedded, and Failed for a request that cannot be begun.
"""

from __future__ import annotations

import struct
from typing import Any

from msgspec import Struct, field, msgpack

from .vocabulary import Kind

LENGTH = struct.Struct("<I")


class Load(Struct, tag=0, array_like=True):
    """settings: arguments of LLM. n_parallel: answers that are made at once."""

    path: str
    settings: dict[str, Any]
    n_parallel: int


class Generate(Struct, tag=1, array_like=True):
    """options: of LLM.stream, sampling too. tells_progress: also of steps that computed only a part of the prompt."""

    id: int
    prompt: list[int]
    options: dict[str, Any]
    max_thought: int | None = None
    tells_progress: bool = False


class EmbedTexts(Struct, tag=3, array_like=True):
    """options: of LLM.embedding_job, or with a query, by which to rank the texts, of LLM.rerank_job."""

    id: int
    texts: list[str | list[int]]
    query: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


class Cancel(Struct, tag=2, array_like=True):
    id: int


class Loaded(Struct, tag=10, array_like=True):
    """n_ctx: tokens that a text may have; generates: it can do more than embed; pooling: of its embeddings."""

    n_ctx: int
    generates: bool
    pooling: str


class Failed(Struct, tag=11, array_like=True):
    """id: None where it is the model that cannot be loaded. again: the engine that had it is gone, and another one may
    be asked."""

    id: int | None
    message: str
    kind: Kind
    again: bool = False


class Ended(Struct, array_like=True):
    """How an answer ended: Generation's stop_reason, or an error instead; stop: the stop string."""

    reason: str
    stop: str | None
    error: str | None = None


class Output(Struct, array_like=True):
    """What a step gave one answer. pieces: token (None: text that had been held back), text, log probability of the
    token and the likeliest at its place with theirs, where asked for. n_done: tokens of the prompt that are computed,
    of these n_cached before; n_answer: tokens of the answer. Seconds for the prompt, and for the answer after it.
    n_drafts: steps with guesses; n_drafted, n_accepted: tokens guessed, and those that proved right."""

    id: int
    pieces: list[tuple[int | None, str, float | None, list[tuple[int, float]]]]
    n_done: int
    n_cached: int
    n_answer: int
    prompt_seconds: float
    answer_seconds: float
    ended: Ended | None = None
    n_drafts: int = 0
    n_drafted: int = 0
    n_accepted: int = 0


class StepReport(Struct, tag=12, array_like=True):
    """seconds: how long it took. The rest is the engine's state after it, for the metrics."""

    outputs: list[Output]
    seconds: float
    n_tokens: int
    n_preempted: int
    n_pages_held: int
    n_pages_kept: int
    n_pages: int


class Embedded(Struct, tag=13, array_like=True):
    """rows: f32[width] of each text: its vector, or what begins with its score; f32[n, width] with pooling "none".
    seconds: of all passes."""

    id: int
    rows: list[bytes]
    n_tokens: int
    seconds: float
    width: int
    n_passes: int


EngineCommand = Load | Generate | EmbedTexts | Cancel
Report = Loaded | Failed | StepReport | Embedded

_encoder = msgpack.Encoder()


def framed(message: EngineCommand | Report) -> bytes:
    """The message as it is sent."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


decode_command = msgpack.Decoder(EngineCommand).decode
decode_report = msgpack.Decoder(Report).decode


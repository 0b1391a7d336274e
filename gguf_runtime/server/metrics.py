"""What the server has done, in Prometheus' text form."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING

from .protocol import StepReport
from .vocabulary import Timings

if TYPE_CHECKING:
    from .models import Models, ServedModel

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Outcome(Enum):
    """What became of a request."""

    DONE, FAILED, CANCELLED = range(3)


class Histogram:
    """How often values were up to each of some bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts = bounds, [0] * (len(bounds) + 1)
        self.sum, self.n = 0.0, 0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum, self.n = self.sum + value, self.n + 1

    def lines(self, name: str) -> Iterator[str]:
        n = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            n += count
            yield f'{name}_bucket{{le="{bound}"}} {n}'
        yield f"{name}_sum {self.sum}"
        yield f"{name}_count {self.n}"


class Metrics:
    """Counts what happens."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self.n_requests = self.n_cancelled = self.n_failed = self.n_steps = self.n_computed = 0
        self.n_prompt = self.n_cached = self.n_answer = self.n_busy = self.n_most = 0
        self.prompt_seconds = self.answer_seconds = 0.0
        self.n_drafts = self.n_drafted = self.n_accepted = 0
        self._last: dict[str, tuple[float, float]] = {}  # what rates were told of up to now
        self._histograms = {
            "time_to_first_token_seconds": Histogram(_SECONDS),
            "time_between_tokens_seconds": Histogram(_SECONDS),
            "queue_seconds": Histogram(_SECONDS),
            "step_seconds": Histogram(_SECONDS),
            "step_tokens": Histogram(_SIZES),
        }

    def step(self, model: ServedModel, step: StepReport) -> None:
        """An engine has taken a step."""
        if step.n_tokens:
            self.n_steps += 1
            self.n_computed += step.n_tokens
            self.n_busy += len(model.turns.running)
            self._histograms["step_seconds"].add(step.seconds)
            self._histograms["step_tokens"].add(step.n_tokens)

    def token(self, seconds: float, is_first: bool) -> None:
        self._histograms["time_to_first_token_seconds" if is_first else "time_between_tokens_seconds"].add(seconds)

    def answered(self, timings: Timings, outcome: Outcome) -> None:
        """An answer has been closed, or texts were embedded: made, given up, or failed."""
        self.n_requests += 1
        self.n_cancelled += outcome is Outcome.CANCELLED
        self.n_failed += outcome is Outcome.FAILED
        self.n_prompt, self.n_cached = self.n_prompt + timings.n_new, self.n_cached + timings.n_cached
        self.n_drafts += timings.n_drafts
        self.n_drafted, self.n_accepted = self.n_drafted + timings.n_drafted, self.n_accepted + timings.n_accepted
        self.n_answer, self.n_most = self.n_answer + timings.n_answer, max(self.n_most, timings.n_answer)
        self.prompt_seconds += timings.prompt_seconds
        self.answer_seconds += timings.answer_seconds
        self._histograms["queue_seconds"].add(timings.queue_seconds)

    def text(self) -> str:
        """All of it."""
        lines: list[str] = []

        def add(kind: str, name: str, value: float, help: str) -> None:
            lines.extend((f"# HELP {name} {help}", f"# TYPE {name} {kind}", f"{name} {value}"))

        for kind, name, value, help in [*self._as_llama_server(), *self._own()]:
            add(kind, name, value, help)
        for name, histogram in self._histograms.items():
            lines.append(f"# TYPE ggrun:{name} histogram")
            lines.extend(histogram.lines(f"ggrun:{name}"))
        return "\n".join(lines) + "\n"

    def _as_llama_server(self) -> Iterator[tuple[str, str, float, str]]:
        n_running = sum(len(model.turns.running) for model in self._models)
        n_waiting = sum(len(model.turns.waiting) for model in self._models)
        counters = {
            "prompt_tokens_total": (self.n_prompt, "Tokens of prompts that were computed."),
            "prompt_tokens_cached_total": (self.n_cached, "Tokens of prompts that had been computed before."),
            "prompt_seconds_total": (self.prompt_seconds, "Time to compute prompts."),
            "tokens_predicted_total": (self.n_answer, "Tokens of answers."),
            "tokens_predicted_seconds_total": (self.answer_seconds, "Time to make answers."),
            "n_decode_total": (self.n_steps, "Steps of engines."),
            "n_tokens_max": (self.n_most, "Tokens of the longest answer."),
            "spec_decode_num_drafts_total": (self.n_drafts, "Steps that checked guesses."),
            "spec_decode_num_draft_tokens_total": (self.n_drafted, "Tokens that were guessed."),
            "spec_decode_num_accepted_tokens_total": (self.n_accepted, "Those that proved right."),
        }
        gauges = {
            "prompt_tokens_seconds": (
                self._rate("prompt", self.n_prompt, self.prompt_seconds), "Prompt tokens in a second, of late.",
            ),
            "predicted_tokens_seconds": (
                self._rate("answer", self.n_answer, self.answer_seconds), "Answer tokens in a second, of late.",
            ),
            "requests_processing": (n_running, "Answers that are being made."),
            "requests_deferred": (n_waiting, "Answers that wait for their turn."),
            "n_busy_slots_per_decode": (_rate(self.n_busy, self.n_steps), "Answers in a step."),
        }
        for kind, facts in (("counter", counters), ("gauge", gauges)):
            for name, (value, help) in facts.items():
                yield kind, f"llamacpp:{name}", value, help

    def _rate(self, name: str, n: float, seconds: float) -> float:
        """In the time since it was last asked for, as llama-server has it."""
        n_before, seconds_before = self._last.get(name, (0.0, 0.0))
        self._last[name] = n, seconds
        return _rate(n - n_before, seconds - seconds_before)

    def _own(self) -> Iterator[tuple[str, str, float, str]]:
        steps = [model.last_step for model in self._models if model.last_step and model.state == "loaded"]
        yield "counter", "ggrun:requests_total", self.n_requests, "Requests that had answers begun."
        yield "counter", "ggrun:requests_cancelled_total", self.n_cancelled, "Those given up by their clients."
        yield "counter", "ggrun:requests_failed_total", self.n_failed, "Those that failed."
        yield "counter", "ggrun:tokens_computed_total", self.n_computed, "Tokens in all steps."
        yield "counter", "ggrun:preemptions_total", sum(step.n_preempted for step in steps), "Pages given back."
        yield "gauge", "ggrun:pages_held", sum(step.n_pages_held for step in steps), "Pages in use."
        yield "gauge", "ggrun:pages_cached", sum(step.n_pages_kept for step in steps), "Pages kept for others."
        yield "gauge", "ggrun:pages", sum(step.n_pages for step in steps), "Pages that there may be."
        loaded = sum(model.state == "loaded" for model in self._models)
        yield "gauge", "ggrun:models_loaded", loaded, "Models in memory."


def _rate(n: float, seconds: float) -> float:
    return n / seconds if seconds else 0.0

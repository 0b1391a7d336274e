"""What the commands that answer have in common: options of an answer, and how they are sorted."""

from __future__ import annotations

from typing import Any

import click

from .options import group, integer, number
from .sampling import chain_options

sampling_options = group(
    number("--temp", "--temperature", "temperature", default=0.8, help="Temperature; 0: greedy."),
    integer("--top-k", default=40, help="Choose among the N likeliest; 0: off."),
    number("--top-p", default=0.95, help="Choose among the likeliest that make up X; 1: off."),
    number("--min-p", default=0.05, help="Choose among those X times as likely as the best; 0: off."),
    number("--repeat-penalty", default=1.0, help="Divide the logits of seen tokens; 1: off."),
    integer("--repeat-last-n", default=64, help="How far back tokens count as seen; -1: all the way."),
    number("--presence-penalty", default=0.0, help="Subtract from the logits of seen tokens."),
    number("--frequency-penalty", default=0.0, help="Subtract for each time that a token was seen."),
    chain_options,
    integer("-s", "--seed", default=-1, show_default="random", help="The same seed gives the same text."),
)
system_option = click.option("-sys", "--system", "--system-prompt", metavar="TEXT", help="How the model shall behave.")

#: What only a single answer can have.
FOR_ONE_ANSWER = {
    "form": "--json", "display_prompt": "--display-prompt", "prompt_cache": "--prompt-cache", "exact": "--exact",
}  # fmt: skip


def chosen_model(name: str | None, model: str | None) -> str | None:
    """The model that MODEL or -m names."""
    if name is not None and model is not None:
        raise click.UsageError(f"two models: {name} and, with -m, {model}")
    return name or model


def sort_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort options into those of `LLM.stream`, checked, and those of `load`."""
    from ..sampling import SamplingParams

    names = SamplingParams.__dataclass_fields__.keys()
    sampling = {name: value for name, value in options.items() if name in names}
    try:
        SamplingParams(**sampling)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    rest = {name: value for name, value in options.items() if name not in names}
    predict = rest.pop("predict")
    answer = {"max_tokens": None if predict < 0 else predict, **sampling}
    for name in ("stop", "ignore_eos", "context_shift", "lookup", "exact"):
        if name in rest:
            answer[name] = rest.pop(name)
    return answer, rest

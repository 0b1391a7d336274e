"""`ggrun run`: a prompt, and the model's answer as it is made."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any

import click

from .options import (
    engine_options,
    group,
    integer,
    load,
    model_option,
    number,
    prompt_options,
    read_prompt,
    template_option,
    verbose_option,
)
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


@click.command(help="Answer a prompt.")
@model_option
@prompt_options
@click.option("-sys", "--system", "--system-prompt", metavar="TEXT", help="How the model shall behave.")
@integer("-n", "--predict", "--n-predict", default=-1, show_default="no limit", help="Tokens at most.")
@template_option
@click.option("--raw", is_flag=True, help="Complete the bare text, without the model's chat template.")
@click.option("--display-prompt", is_flag=True, help="Write the prompt too, as the model sees it.")
@click.option("--ignore-eos", is_flag=True, help="Go on where the model would end.")
@sampling_options
@engine_options()
@verbose_option
def command(
    prompt: str | None,
    file: str | None,
    escape: bool,
    system: str | None,
    predict: int,
    raw: bool,
    display_prompt: bool,
    ignore_eos: bool,
    verbose: bool,
    **options: Any,
) -> None:
    sampling, model = _sampling(options)
    text = read_prompt(prompt, file, escape)
    start = perf_counter()
    llm = load(**model)
    load_seconds = perf_counter() - start

    if llm.has_chat_template and not raw:
        messages = [{"role": "system", "content": system}] if system else []
        text = llm.render([*messages, {"role": "user", "content": text}])
    elif system:
        raise click.UsageError("a system prompt needs a model with a chat template, and no --raw")
    answer = llm.stream(text, max_tokens=None if predict < 0 else predict, ignore_eos=ignore_eos, **sampling)

    if display_prompt:
        _write(text)
    last = ""
    for last in answer:
        _write(last)
    if sys.stdout.isatty() and not last.endswith("\n"):
        _write("\n")
    if answer.stop_reason == "context":
        click.echo(f"ggrun: the context of {llm.engine.n_ctx} tokens is full; -c makes it larger", err=True)
    if verbose:
        _report(load_seconds, answer)


def _sampling(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort options into those of SamplingParams, checked, and the rest."""
    from ..sampling import SamplingParams

    names = SamplingParams.__dataclass_fields__.keys()
    sampling = {name: value for name, value in options.items() if name in names}
    if sampling["seed"] < 0:
        sampling["seed"] = None
    try:
        SamplingParams(**sampling)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return sampling, {name: value for name, value in options.items() if name not in names}


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _report(load_seconds: float, answer: Any) -> None:
    """Timings, on stderr. Generation counts the steps after the prompt, as llama.cpp does."""

    def speed(n: int, seconds: float) -> str:
        return f"{1e3 * seconds:9.1f} ms  {n / seconds if seconds else 0:9.1f} t/s  {n} tokens"

    click.echo(f"load       {1e3 * load_seconds:9.1f} ms", err=True)
    click.echo(f"prompt     {speed(len(answer.prompt), answer.prompt_seconds)}", err=True)
    click.echo(f"generation {speed(answer.n_steps, answer.step_seconds)}", err=True)
    click.echo(f"stop       {answer.stop_reason}, seed {answer.sampler.seed}", err=True)

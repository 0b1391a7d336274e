"""`ggrun run`: a prompt, and the model's answer as it is made."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from .options import (
    Sectioned,
    answer_options,
    draft_option,
    engine_options,
    group,
    has_prompt,
    integer,
    load,
    model_argument,
    model_option,
    number,
    path,
    prompt_options,
    read_prompt,
    section,
    template_option,
    verbose_option,
)
from .sampling import chain_options

if TYPE_CHECKING:
    from ..generation import Generation

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
output_options = group(
    path("-o", "--output", help="Write the answer to a file, once it is whole."),
    click.option(
        "--json", "form", flag_value="json", help="Write one JSON object: text, tokens, timings, stop reason."
    ),
    click.option("--jsonl", "form", flag_value="jsonl", help="Write a JSON object for each token, and one at the end."),
    click.option("--display-prompt", is_flag=True, help="Write the prompt too, as the model sees it."),
)


#: What only a single answer can have.
FOR_ONE_ANSWER = {"form": "--json", "display_prompt": "--display-prompt", "prompt_cache": "--prompt-cache"}


@click.command(cls=Sectioned, help="Answer a prompt. At a terminal and without one, ggrun chats.")
@model_argument
@section("Model", model_option, draft_option)
@section("Prompt", prompt_options, system_option, template_option)
@section("Prompt", click.option("--raw", is_flag=True, help="Complete the bare text, without a chat template."))
@section("Prompt", path("--prompts", help="Answer every line of a JSONL file, many at a time."))
@section("Prompt", path("--prompt-cache", help="Keep what is computed of the prompt here."))
@section("Answer", answer_options)
@section("Output", output_options, verbose_option)
@section("Sampling", sampling_options)
@section("Machine", engine_options())
def command(name: str | None, model: str | None, prompts: str | None, **options: Any) -> None:
    model = chosen_model(name, model)
    prompt = {key: options.pop(key) for key in ("prompt", "file", "escape")}
    if prompts is not None:
        from .batch import answer_all

        answer_all(prompts, model, options)
    elif not has_prompt(prompt["prompt"], prompt["file"]) and sys.stdin.isatty() and sys.stdout.isatty():
        from .chat import start

        for option, shown in {**FOR_ONE_ANSWER, "raw": "--raw", "output": "-o"}.items():
            if options.pop(option):
                raise click.UsageError(f"{shown} is not for a chat: give a prompt with -p")
        start(model, options)
    else:
        _answer(model, read_prompt(**prompt), **options)


def _answer(
    model: str | None,
    text: str,
    *,
    system: str | None,
    raw: bool,
    prompt_cache: str | None,
    output: str | None,
    form: str | None,
    display_prompt: bool,
    verbose: bool,
    **options: Any,
) -> None:
    from .output import open_output

    answer, engine = sort_options(options)
    start = perf_counter()
    llm = load(model, **engine)
    load_seconds = perf_counter() - start
    if verbose and (table := llm.engine.placement.table()):
        click.echo(table, err=True)
    if llm.has_chat_template and not raw:
        messages = [{"role": "system", "content": system}] if system else []
        text = llm.render([*messages, {"role": "user", "content": text}])
    elif system:
        raise click.UsageError("a system prompt needs a model with a chat template, and no --raw")

    with open_output(output, form) as out:
        if prompt_cache:
            from ..prompt_cache import PromptCache

            cache = PromptCache(prompt_cache, llm)
            generation = llm.stream(text, context=cache.context, **answer)
        else:
            generation = llm.stream(text, **answer)
        if display_prompt:
            out.prompt(text)
        while not generation.done:
            for piece in generation.advance():
                out.piece(piece)
        out.end(generation, llm, load_seconds)
    if prompt_cache:
        cache.keep(generation)
    if generation.stop_reason == "context":
        click.echo(f"ggrun: the context of {llm.engine.n_ctx} tokens is full; -c makes it larger", err=True)
    if verbose:
        _report(load_seconds, generation)


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
    if sampling["seed"] < 0:
        sampling["seed"] = None
    try:
        SamplingParams(**sampling)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    rest = {name: value for name, value in options.items() if name not in names}
    predict = rest.pop("predict")
    answer = {"max_tokens": None if predict < 0 else predict, **sampling}
    for name in ("stop", "ignore_eos", "context_shift", "lookup"):
        if name in rest:
            answer[name] = rest.pop(name)
    return answer, rest


def _report(load_seconds: float, answer: Generation) -> None:
    """Timings, on stderr. Generation counts the steps after the prompt, as llama.cpp does."""

    def speed(n: int, seconds: float) -> str:
        return f"{1e3 * seconds:9.1f} ms  {n / seconds if seconds else 0:9.1f} t/s  {n} tokens"

    click.echo(f"load       {1e3 * load_seconds:9.1f} ms", err=True)
    kept = f", {answer.n_reused} kept" if answer.n_reused else ""
    click.echo(f"prompt     {speed(len(answer.prompt) - answer.n_reused, answer.prompt_seconds)}{kept}", err=True)
    click.echo(f"generation {speed(answer.n_decoded, answer.step_seconds)}", err=True)
    if answer.n_guessed:
        click.echo(f"guesses    {answer.n_accepted} of {answer.n_guessed} right, in {answer.n_steps} steps", err=True)
    click.echo(f"stop       {answer.stop_reason}, seed {answer.sampler.seed}", err=True)

"""`ggrun run`: a prompt, and the model's answer as it is made."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from .answers import FOR_ONE_ANSWER, chosen_model, sampling_options, sort_options, system_option
from .options import (
    Sectioned,
    answer_options,
    draft_option,
    engine_options,
    group,
    has_prompt,
    load,
    model_argument,
    model_option,
    path,
    prompt_options,
    read_prompt,
    section,
    template_option,
    verbose_option,
)

if TYPE_CHECKING:
    from ..generation import Generation

output_options = group(
    path("-o", "--output", help="Write the answer to a file, once it is whole."),
    click.option(
        "--json", "form", flag_value="json", help="Write one JSON object: text, tokens, timings, stop reason."
    ),
    click.option("--jsonl", "form", flag_value="jsonl", help="Write a JSON object for each token, and one at the end."),
    click.option("--display-prompt", is_flag=True, help="Write the prompt too, as the model sees it."),
)


@click.command(cls=Sectioned, help="Answer a prompt. At a terminal and without one, ggrun chats.")
@model_argument
@section("Model", model_option, draft_option)
@section("Prompt", prompt_options, system_option, template_option)
@section("Prompt", click.option("--raw", is_flag=True, help="Complete the bare text, without a chat template."))
@section("Prompt", path("--prompts", help="Answer every line of a JSONL file, many at a time."))
@section("Prompt", path("--prompt-cache", help="Keep what is computed of the prompt here."))
@section("Answer", answer_options)
@section("Answer", click.option("--exact", is_flag=True, help="The same text as without guesses and caches."))
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

"""`ggrun run`: a prompt, and the model's answer as it is made."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .answers import (
    FOR_ONE_ANSWER,
    Dialogue,
    raw_options,
    sampling_options,
    sort_options,
    system_options,
)
from .command import LlamaCommand, group, section
from .kinds import flag, path
from .loading import load, take_model
from .options import (
    answer_options,
    conversation_options,
    draft_options,
    load_options,
    model_options,
    reasoning_options,
    template_options,
    verbose_option,
)
from .prompt import has_prompt, prompt_options, read_prompt, unescaped
from .recipes import by_recipe

if TYPE_CHECKING:
    from ..generation import Generation
    from ..llm import LLM

output_options = group(
    path("-o", "--output", "--output-file", "output", help="Write the answer to a file, once it is whole."),
    click.option(
        "--json", "form", flag_value="json", help="Write one JSON object: text, tokens, timings, stop reason."
    ),
    click.option("--jsonl", "form", flag_value="jsonl", help="Write a JSON object for each token, and one at the end."),
    flag("--display-prompt/--no-display-prompt", help="Write the prompt too, as the model sees it."),
)
infill_options = group(
    click.option(
        "--fim", nargs=2, metavar="PREFIX SUFFIX", help="Write what comes between, with a model made to fill in code."
    ),
    flag("--spm-infill", help="Show it the suffix first, as some want it."),
)
cache_options = group(
    path("--prompt-cache", help="Keep what is computed of the prompt here."),
    flag("--prompt-cache-ro", help="Use what is kept there, and leave it as it is."),
)


class Gap(NamedTuple):
    """What is to be filled in: between a prefix and a suffix."""

    prefix: str
    suffix: str
    suffix_first: bool


@click.command(cls=LlamaCommand, help="Answer a prompt. At a terminal and without one, ggrun chats.")
@click.argument("name", required=False, type=click.Path(), metavar="[MODEL]")
@click.argument("words", nargs=-1, metavar="[PROMPT]")
@section("Model", model_options, draft_options)
@section("Prompt", prompt_options, system_options, template_options, raw_options)
@section("Prompt", path("--prompts", help="Answer every line of a JSONL file, many at a time."))
@section("Prompt", infill_options)
@section("Prompt", cache_options)
@section("Reasoning", reasoning_options)
@section("Answer", answer_options)
@section("Answer", click.option("--exact", is_flag=True, help="The same text as without guesses and caches."))
@section("Output", output_options, verbose_option)
@section("Chat", conversation_options)
@section("Sampling", sampling_options)
@load_options()
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    prompts: str | None,
    raw: bool,
    conversation: bool | None,
    fim: tuple[str, str] | None,
    spm_infill: bool,
    **options: Any,
) -> None:
    model = take_model(options)
    prompt = {key: options.pop(key) for key in ("prompt", "file", "binary_file")} | {"escape": options["escape"]}
    if words:
        if prompt["prompt"] is not None:
            raise click.UsageError(f"two prompts: {' '.join(words)} and, with -p, {prompt['prompt']}")
        prompt |= {"prompt": " ".join(words), "escape": False}
    dialogue = by_recipe(ctx, model, options)
    raw = raw or conversation is False
    if fim is not None:
        if prompts is not None or any(prompt[name] is not None for name in ("prompt", "file", "binary_file")):
            raise click.UsageError("--fim is a prompt by itself: leave out -p, -f, -bf and --prompts")
        _forget_chat(options)
        prefix, suffix = unescaped(fim, prompt["escape"])
        _answer(model, Gap(prefix, suffix, spm_infill), dialogue, True, **options)
    elif prompts is not None:
        from .batch import answer_all

        _forget_chat(options)
        answer_all(prompts, model, dialogue, raw, options)
    elif conversation or _chats(prompt):
        _start_chat(model, prompt, dialogue, raw, options)
    else:
        _forget_chat(options)
        _answer(model, read_prompt(**prompt), dialogue, raw, **options)


def _chats(prompt: dict[str, Any]) -> bool:
    """Whether there is a person to talk with, and no prompt."""
    given = prompt["prompt"], prompt["file"], prompt["binary_file"]
    return not has_prompt(*given) and sys.stdin.isatty() and sys.stdout.isatty()


def _forget_chat(options: dict[str, Any]) -> None:
    for name in ("single_turn", "multiline"):  # as good as so
        options.pop(name)


def _start_chat(
    model: str | None, prompt: dict[str, Any], dialogue: Dialogue, raw: bool, options: dict[str, Any]
) -> None:
    from .chat import start

    for option, shown in {**FOR_ONE_ANSWER, "output": "-o"}.items():
        if options.pop(option):
            raise click.UsageError(f"{shown} is not for a chat: give a prompt with -p")
    if raw:
        raise click.UsageError("--raw and -no-cnv are not for a chat: give a prompt with -p")
    given = any(prompt[name] is not None for name in ("prompt", "file", "binary_file"))
    start(model, dialogue, options, read_prompt(**prompt, piped=False) if given else None)


def _answer(
    model: str | None,
    text: str | Gap,
    dialogue: Dialogue,
    raw: bool,
    *,
    prompt_cache: str | None,
    prompt_cache_ro: bool,
    output: str | None,
    form: str | None,
    display_prompt: bool,
    verbose: bool,
    **options: Any,
) -> None:
    from .output import Thoughts, open_output

    answer, engine = sort_options(options)
    start = perf_counter()
    llm = load(model, **engine, chat_template=dialogue.template)
    load_seconds = perf_counter() - start
    if verbose and (table := llm.engine.placement.table()):
        click.echo(table, err=True)
    shown, prompt = _what_is_read(llm, text, dialogue, raw, answer["max_tokens"])
    apart = dialogue.reasoning.startswith("deepseek")
    thoughts = Thoughts(shown, kept=dialogue.reasoning == "deepseek-legacy") if apart else None
    with open_output(output, form, thoughts) as out:
        if prompt_cache:
            from ..prompt_cache import PromptCache

            cache = PromptCache(prompt_cache, llm)
        generation = llm.stream(prompt, **answer)
        if display_prompt:
            out.prompt(shown)
        while not generation.done:
            for piece in generation.advance():
                out.piece(piece)
        out.end(generation, llm, load_seconds)
    if prompt_cache and not prompt_cache_ro:
        cache.keep(generation)
    if verbose:
        _report(load_seconds, generation)
    _judge(generation, llm.engine.n_ctx)


def _what_is_read(
    llm: LLM, text: str | Gap, dialogue: Dialogue, raw: bool, max_tokens: int | None
) -> tuple[str, str | list[int]]:
    """What the model reads: the text to show, and the prompt."""
    if llm.has_chat_template and not raw and isinstance(text, str):
        text = llm.render(dialogue.messages(text), **dialogue.variables)
    elif dialogue.system:
        raise click.UsageError("a system prompt needs a model with a chat template, no --raw and no --fim")
    if isinstance(text, str):
        return text, text
    tokens = llm.infill_tokens(text.prefix, text.suffix, suffix_first=text.suffix_first, max_tokens=max_tokens)
    return llm.tokenizer.decode(tokens), tokens


def _judge(generation: Generation, n_ctx: int) -> None:
    """Say that the context is full. Raises ClickException where an answer that must have a form was cut off."""
    full = f"the context of {n_ctx} tokens is full; -c makes it larger" if generation.stop_reason == "context" else ""
    if generation.sampler.lacks_form:
        why = full or {"length": f"-n ended it after {len(generation.tokens)} tokens"}.get(
            str(generation.stop_reason), f"it ended early ({generation.stop_reason})"
        )
        raise click.ClickException(f"the answer is cut off and does not have the form that was asked for: {why}")
    if full:
        click.echo(f"ggrun: {full}", err=True)


def _report(load_seconds: float, answer: Generation) -> None:
    """Timings, on stderr. Generation counts the steps after the prompt, as llama.cpp does."""

    def speed(n: int, seconds: float) -> str:
        return f"{1e3 * seconds:9.1f} ms  {n / seconds if seconds else 0:9.1f} t/s  {n} tokens"

    click.echo(f"load       {1e3 * load_seconds:9.1f} ms", err=True)
    kept = f", {answer.n_reused} kept" if answer.n_reused else ""
    click.echo(f"prompt     {speed(answer.n_prompt - answer.n_reused, answer.prompt_seconds)}{kept}", err=True)
    click.echo(f"generation {speed(answer.n_decoded, answer.step_seconds)}", err=True)
    if answer.n_guessed:
        click.echo(f"guesses    {answer.n_accepted} of {answer.n_guessed} right, in {answer.n_steps} steps", err=True)
    click.echo(f"stop       {answer.stop_reason}, seed {answer.sampler.seed}", err=True)

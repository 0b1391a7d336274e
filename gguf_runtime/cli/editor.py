"""Where a person writes at the terminal: several lines, history, completion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from ..files import data_folder
from . import slash

if TYPE_CHECKING:
    from .session import Chat

_BLOCK = '"""'


class Editor:
    """Enter sends; Alt-Enter, Ctrl-J, or Enter after a backslash or within \"\"\" begins a new line.

    multiline: the other way round, but for commands.
    """

    def __init__(self, chat: Chat, multiline: bool = False) -> None:
        self._chat = chat
        chat.agrees = _agrees
        self._session: PromptSession[str] = PromptSession(
            message=HTML("<b>&gt;</b> "),
            prompt_continuation=lambda width, number, wrapped: "  ",
            placeholder=HTML("<ansibrightblack>Write a message</ansibrightblack>"),
            multiline=True,
            history=_history(),
            completer=_SlashCompleter(chat),
            complete_while_typing=True,
            reserve_space_for_menu=4,
            enable_open_in_editor=True,
            enable_suspend=True,
            key_bindings=_keys(multiline),
        )

    def read(self) -> str | None:
        """What was entered; None where the person leaves. Raises KeyboardInterrupt for Ctrl-C."""
        draft, self._chat.draft = self._chat.draft, ""
        try:
            text = self._session.prompt(default=draft)
        except EOFError:
            return None
        if text.lstrip().startswith(_BLOCK):
            text = text.strip().removeprefix(_BLOCK).removesuffix(_BLOCK).strip("\n")
        return text


def _agrees(question: str) -> bool:
    """Ask; Enter alone, Ctrl-C and Ctrl-D are a no."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        answer: str = PromptSession().prompt(f"{question} [y/N] ")
        return answer.strip().lower() in ("y", "yes")
    return False


def _keys(multiline: bool) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None
            return
        text = buffer.text.lstrip()
        if multiline and not text.startswith("/"):
            if not buffer.document.text_before_cursor.endswith("\\"):
                buffer.insert_text("\n")
                return
            buffer.delete_before_cursor()
            buffer.validate_and_handle()
        elif text.startswith(_BLOCK) and not (len(text.rstrip()) > 5 and text.rstrip().endswith(_BLOCK)):
            buffer.insert_text("\n")
        elif buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        if multiline:
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


class _SlashCompleter(Completer):
    """Completes slash commands and what can follow them."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        command, space, rest = text.partition(" ")
        if not space:
            for name, (usage, help) in slash.COMMANDS.items():
                if name.startswith(command):
                    yield Completion(name, -len(command), display=f"{name} {usage}".rstrip(), display_meta=help)
            return
        for word in slash.completions(self._chat, command):
            if word.startswith(rest):
                yield Completion(word, -len(rest))


def _history() -> History:
    """What was entered in earlier sessions, for this user's eyes only; of this one alone where it cannot be kept."""
    path: Path = data_folder() / "history"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        return FileHistory(path)
    return InMemoryHistory()

"""The commands of a chat that begin with a slash."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..conversation import ConversationError
from ..files import data_folder, expanded, replacing
from ..sampling import SamplingParams
from . import process
from .session import Chat, note

#: Command → (what follows it, what it does).
COMMANDS = {
    "/help": ("", "What can be done here"),
    "/regen": ("", "Answer the last message anew"),
    "/undo": ("", "Take back the last message and its answer"),
    "/edit": ("", "Change the last message and ask again"),
    "/system": ("[TEXT]", "Show or set how the model shall behave; - for nothing"),
    "/set": ("[NAME VALUE]", "Show or change settings, such as temperature"),
    "/show": ("", "Show the model, the context and the settings"),
    "/save": ("NAME", "Keep the conversation"),
    "/load": ("NAME", "Go on with a conversation that was kept"),
    "/clear": ("", "Begin a new conversation"),
    "/bye": ("", "Leave; Ctrl-D does too"),
}
_ALSO = {"/exit": "/bye", "/quit": "/bye", "/?": "/help"}  # as other programs have them
_KEYS = {
    "Enter": "Send",
    "Alt-Enter, Ctrl-J": "New line; so does Enter after \\ or between two \"\"\"",
    "Ctrl-C": "Stop the answer",
    "Up, Down, Ctrl-R": "Earlier messages; search in them",
    "Ctrl-X Ctrl-E": "Write in your editor",
}  # fmt: skip
_MORE = {
    "max_tokens": "Tokens of an answer at most",
    "think": "on or off, for models that reason",
    "verbose": "on or off",
}


def obey(chat: Chat, line: str) -> None:
    """Do what a line that begins with a slash says. What cannot be done is told."""
    name, _, rest = line.partition(" ")
    name = _ALSO.get(name.lower(), name.lower())
    names = [name] if name in COMMANDS else [known for known in COMMANDS if known.startswith(name) and len(name) > 1]
    if len(names) != 1:
        note(f"{name}: {'could be ' + ' or '.join(names) if names else 'no such command'}; /help lists them all")
        return
    try:
        _ACTIONS[names[0]](chat, rest.strip())
    except (ConversationError, ValueError, OSError) as error:
        note(f"{names[0]}: {process.describe(error)}")


def completions(chat: Chat, command: str) -> Iterable[str]:
    """What may follow a command."""
    if command == "/set":
        return [*_parameters(), *_MORE]
    if command in ("/save", "/load"):
        return sorted(path.stem for path in _folder().glob("*.json"))
    return [chat.conversation.system] if command == "/system" and chat.conversation.system else []


def _help(chat: Chat, rest: str) -> None:
    for rows in ({f"{name} {usage}": help for name, (usage, help) in COMMANDS.items()}, _KEYS):
        _table(rows)


def _table(rows: Mapping[str, object]) -> None:
    """What is on the left, and what there is to say about it, in as many lines as the terminal needs."""
    width = max(20, shutil.get_terminal_size().columns - 1)
    indent = 25 if width >= 60 else 4
    for left, right in rows.items():
        start = f"  {left}".ljust(indent)
        if len(start) > indent:
            print(start.rstrip())
            start = " " * indent
        print(textwrap.fill(str(right), width, initial_indent=start, subsequent_indent=" " * indent))
    print()


def _regen(chat: Chat, rest: str) -> None:
    chat.answer(lambda: chat.conversation.again(**chat.options))


def _undo(chat: Chat, rest: str) -> None:
    text = chat.conversation.undo()
    note(f"taken back: {_short(text)}\n")


def _edit(chat: Chat, rest: str) -> None:
    if not any(message["role"] == "user" for message in chat.conversation.messages):
        raise ConversationError("there is no message to change yet")
    chat.draft = chat.conversation.undo()


def _system(chat: Chat, rest: str) -> None:
    if rest:
        chat.conversation.system = "" if rest == "-" else rest
    note(f"system message: {chat.conversation.system or 'none'}\n")


def _set(chat: Chat, rest: str) -> None:
    name, _, value = rest.removeprefix("parameter ").partition(" ")  # as Ollama has it
    if not name:
        _table(_settings(chat))
        return
    value = value.strip()
    if name == "verbose":
        chat.verbose = _on(value)
    elif name == "think":
        chat.conversation.template["enable_thinking"] = _on(value)
    elif name == "max_tokens":
        n = _number(name, value, int)
        chat.options[name] = n if n >= 0 else None
    elif name in _parameters():
        number: Any = None if name == "seed" and value == "random" else _number(name, value, _parameters()[name])
        SamplingParams(**{name: number})  # raises ValueError where it has no meaning
        chat.options[name] = number
    else:
        raise ValueError(f"no setting {name}; /set lists them all")
    note(f"{name}: {_settings(chat)[name]}")


def _number(name: str, value: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} is {wanted}, which {value or 'nothing'!r} is not") from None


def _show(chat: Chat, rest: str) -> None:
    llm, conversation = chat.llm, chat.conversation
    n_messages = len(conversation.messages)
    facts = {
        "model": llm.name,
        "file": llm.file.path,
        "context": f"{conversation.n_tokens:,} of {llm.engine.n_ctx:,} tokens, {n_messages} messages",
        "system": _short(conversation.system) or "none",
    }
    _table(facts | _settings(chat))


def _save(chat: Chat, rest: str) -> None:
    path = _path(rest)
    if path.exists() and not chat.agrees(f"{path} is there already. Write over it?"):
        raise ValueError(f"{path} is there already, and stays as it is")
    _folder().mkdir(parents=True, exist_ok=True)
    data = {"model": chat.llm.name, "messages": chat.conversation.messages}
    with replacing(path) as file:
        file.write(json.dumps(data, ensure_ascii=False, indent=1).encode())
    note(f"kept in {path}\n")


def _load(chat: Chat, rest: str) -> None:
    path = _path(rest)
    try:
        data = json.loads(path.read_bytes())
        messages = [{str(k): str(v) for k, v in message.items()} for message in data["messages"]]
        if any({"role", "content"} - message.keys() for message in messages):
            raise KeyError("content")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is no conversation that /save wrote") from None
    chat.conversation.messages = messages
    for message in messages:
        if message["role"] == "user":
            note(f"> {_short(message['content'])}")
    note(f"{len(messages)} messages from {path}\n")


def _clear(chat: Chat, rest: str) -> None:
    chat.conversation.clear()
    note("a new conversation\n")


def _bye(chat: Chat, rest: str) -> None:
    chat.leaving = True


_ACTIONS: dict[str, Callable[[Chat, str], None]] = {
    "/help": _help, "/regen": _regen, "/undo": _undo, "/edit": _edit, "/system": _system, "/set": _set,
    "/show": _show, "/save": _save, "/load": _load, "/clear": _clear, "/bye": _bye,
}  # fmt: skip


def _parameters() -> dict[str, Callable[[str], Any]]:
    """The settings of SamplingParams that are single numbers, and how to read them."""
    kinds: dict[str, Callable[[str], Any]] = {"float": float, "int": int, "int | None": int}
    return {field.name: kinds[str(field.type)] for field in fields(SamplingParams) if str(field.type) in kinds}


def _settings(chat: Chat) -> dict[str, Any]:
    """All that /set can change, as it is now."""
    params = SamplingParams(**{name: chat.options[name] for name in _parameters() if name in chat.options})
    found: dict[str, Any] = {name: getattr(params, name) for name in _parameters()}
    found["seed"] = "random" if params.seed is None else params.seed
    n = chat.options.get("max_tokens")
    found["max_tokens"] = "no limit" if n is None else n
    found["think"] = {None: "as the model likes", True: "on", False: "off"}[
        chat.conversation.template.get("enable_thinking")
    ]
    found["verbose"] = "on" if chat.verbose else "off"
    return found


def _on(value: str) -> bool:
    if value not in ("on", "off"):
        raise ValueError("on or off?")
    return value == "on"


def _folder() -> Path:
    return data_folder() / "conversations"


def _path(name: str) -> Path:
    """A name stands for a file in ggrun's data folder; what has a folder is a path."""
    if not name:
        raise ValueError("under which name?")
    if os.path.split(name)[0] or os.path.splitdrive(name)[0]:
        return expanded(name)
    return _folder() / f"{name.removesuffix('.json')}.json"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:70] + "…"

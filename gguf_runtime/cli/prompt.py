"""The prompt: from options, files, and what is piped in."""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import click

from ..files import without_mark
from .command import group
from .kinds import path, text

_PATIENCE = 2.0  # seconds
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"'": b"'", b'"': b'"', b"\\": b"\\"}

escape_option = click.option(
    "-e/ ", "--escape/--no-escape", default=True, show_default=False,
    help="Whether \\n, \\t, \\x41 in texts of options are escapes; they are.",
)  # fmt: skip
prompt_options = group(
    text("-p", "--prompt", help="The prompt. What is piped in follows it."),
    path("-f", "--file", help="A file with the prompt; -: standard input."),
    path("-bf", "--binary-file", help="The same, to the last byte: a newline at its end stays."),
)


def read_prompt(
    prompt: str | None, file: str | None, binary_file: str | None, escape: bool, *, piped: bool = True
) -> str:
    """The prompt from `-p`, then `-f` and `-bf`, then what is piped in, joined by newlines. UsageError for none.

    piped: whether what is piped in belongs to it, even without `-f -`.
    """
    parts = []
    if prompt is not None:
        raw = os.fsencode(prompt)
        parts.append(unescape(raw) if escape else raw)
    if file is not None and file != "-":
        parts.append(_without_newline(without_mark(Path(file).read_bytes())))
    if binary_file is not None:
        parts.append(Path(binary_file).read_bytes())
    awaited = file == "-" or not parts
    if (file == "-" or (piped and _is_piped(sys.stdin))) and (
        more := _read_piped(sys.stdin.buffer, patience=None if awaited else _PATIENCE)
    ):
        parts.append(_without_newline(without_mark(more)))
    if not parts:
        raise click.UsageError("no prompt: give one with -p or -f, or pipe it in")
    return b"\n".join(parts).decode("utf-8", "replace")


def has_prompt(*given: str | None) -> bool:
    """Whether there is a prompt to read: not so at a terminal without `-p`, `-f` and `-bf`."""
    return any(item is not None for item in given) or _is_piped(sys.stdin)


def unescaped(texts: Any, escape: bool) -> Any:
    """A text of an option, or several, with escapes replaced where that is asked for."""
    if not escape or texts is None:
        return texts
    if isinstance(texts, str):
        return unescape(os.fsencode(texts)).decode("utf-8", "replace")
    return tuple(unescaped(item, escape) for item in texts)


def unescape(text: bytes) -> bytes:
    r"""Replace \n \r \t \' \" \\ and \xHH, as llama.cpp's -e does; other backslashes stay."""

    def character(match: re.Match[bytes]) -> bytes:
        name = match[1]
        return _ESCAPES[name] if name in _ESCAPES else bytes([int(name[1:], 16)])

    return re.sub(rb"""\\([nrt'"\\]|x[0-9a-fA-F]{2})""", character, text)


def _read_piped(stream: BinaryIO, patience: float | None) -> bytes:
    """Read to the end. Who gave a prompt may not know that input is awaited too, and is told after a while."""
    if patience is None:
        return stream.read()
    notice = threading.Timer(patience, click.echo, ("ggrun: waiting for the end of standard input",), {"err": True})
    notice.daemon = True
    notice.start()
    try:
        return stream.read()
    finally:
        notice.cancel()


def _without_newline(data: bytes) -> bytes:
    """llama.cpp leaves out one newline at the end of a prompt file."""
    return data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data


def _is_piped(stream: Any) -> bool:
    """Whether a pipe, a file or a socket is connected, and not a terminal or a device such as /dev/null."""
    if stream is None:
        return False
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)

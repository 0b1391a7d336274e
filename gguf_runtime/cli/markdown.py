"""Markdown on a terminal while it is being written.

Finished blocks (paragraphs, lists, code) are written once. Only the last one may still change: it is rendered again
as text comes, and of its lines those are rewritten that differ, each over its old self, so that nothing flickers.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Literal, TextIO

from markdown_it import MarkdownIt
from rich.console import Console
from rich.markdown import CodeBlock, Heading, Markdown
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

from .process import harmless

_INTERVAL, _SHARE = 0.05, 20  # seconds between renderings at least, and how many times what one takes
_SYNC, _END_SYNC = "\x1b[?2026h", "\x1b[?2026l"  # terminals that know these show all that is between at once

_THEME = Theme(
    {
        "markdown.code": "cyan", "markdown.h1": "bold underline", "markdown.h2": "bold underline",
        "markdown.h3": "bold", "markdown.h4": "bold", "markdown.block_quote": "dim", "markdown.item.number": "",
        "markdown.item.bullet": "", "markdown.link_url": "dim underline",
    }
)  # fmt: skip


class MarkdownStream:
    """Writes Markdown to a terminal as it comes. The cursor stays at the end of what is written."""

    def __init__(
        self, out: TextIO | None = None, size: Callable[[], tuple[int, int]] = shutil.get_terminal_size
    ) -> None:
        """size: gives the terminal's columns and lines."""
        self._out, self._size = out or sys.stdout, size
        self._text = ""  # of the blocks that are not finished
        self._shown: list[str] = []  # their lines, as they stand on the terminal
        self._width = 0  # of the terminal, when they were written
        self._lost = False  # where they stand
        self._any = False  # finished blocks stand above
        self._parser = MarkdownIt().enable(["table", "strikethrough"])
        self._due = 0.0

    def push(self, text: str) -> None:
        self._text += harmless(text)
        if perf_counter() >= self._due:
            start = perf_counter()
            self._update()
            took = perf_counter() - start
            self._due = start + max(_INTERVAL, _SHARE * took)

    def lose_place(self) -> None:
        """Others have written to the terminal: what is not finished is written anew below."""
        self._lost = True

    def finish(self) -> None:
        """Write what is not written yet, and go to a new line."""
        self._update(last=True)
        if self._any:
            self._out.write("\n")
            self._out.flush()

    def _update(self, last: bool = False) -> None:
        if self._lost:
            self._shown, self._lost = [], False
        width, height = self._size()
        finished, current = (self._text, "") if last else self._split()
        lines = self._lines(finished, width)
        n_finished = len(lines)
        lines += self._lines(_whole(current), width, after=bool(lines))
        if lines or self._shown:
            self._rewrite(lines or [""], width, height)
        if finished:
            self._text, self._shown = current, lines[n_finished:]
            self._any = self._any or bool(n_finished)

    def _split(self) -> tuple[str, str]:
        """The finished blocks of the text, and what may still change: its last line can yet be part of any block."""
        whole_lines = self._text[: self._text.rfind("\n") + 1]
        starts = [token.map[0] for token in self._parser.parse(whole_lines) if token.level == 0 and token.map]
        lines = self._text.split("\n")
        n = starts[-1] if starts else 0
        return "".join(f"{line}\n" for line in lines[:n]), "\n".join(lines[n:])

    def _lines(self, text: str, width: int, after: bool = False) -> list[str]:
        """The text as lines for the terminal, a blank one first where blocks stand before it."""
        if not text.strip():
            return []
        # a column less: a full line would leave the cursor where terminals do not agree what "erase" means
        console = Console(
            file=io.StringIO(), force_terminal=True, width=max(20, width - 1), color_system=_colors(), theme=_THEME
        )
        with console.capture() as capture:
            console.print(_Rendered(text))
        lines = [line.rstrip() for line in capture.get().strip("\n").split("\n")]
        while lines and not lines[0]:
            lines.pop(0)
        return ["", *lines] if after or self._any else lines

    def _rewrite(self, lines: list[str], width: int, height: int) -> None:
        """Make the terminal show these lines in place of those shown, touching only what differs."""
        old, resized = self._shown, bool(self._shown) and width != self._width
        same = 0
        while same < min(len(old), len(lines)) and old[same] == lines[same]:
            same += 1
        if same == len(old) == len(lines):
            return
        rows = [_rows(line, width) for line in old]
        first = len(old)  # of the lines on the screen: what has left it stays as it is
        while first and sum(rows[first - 1 :]) < height:
            first -= 1
        begin = first if resized else min(max(same, first), len(lines) - 1)
        up = sum(rows[begin:]) - 1
        start = "\n" * bool(old or self._any) if up < 0 else f"\x1b[{up}A\r" if up else "\r"
        erase = "\x1b[J" if resized or len(old) > len(lines) else ""
        if resized:
            begin, start = _same_place(old, begin, lines), f"{start}{erase}"
        body = "\n".join(f"{line}\x1b[K" for line in lines[begin:])
        self._out.write(_SYNC + start + body + erase + _END_SYNC)
        self._out.flush()
        self._shown, self._width = lines, width


def _rows(line: str, width: int) -> int:
    """How many rows of the terminal a line takes, of which a terminal made narrower makes several."""
    return max(1, -(-Text.from_ansi(line).cell_len // max(1, width)))


def _same_place(old: list[str], n: int, lines: list[str]) -> int:
    """Where in lines stands what stood at n in old, where both are the same text, broken at other places."""

    def length(line: str) -> int:
        return len("".join(Text.from_ansi(line).plain.split()))

    before, place = sum(map(length, old[:n])), 0
    while 0 < before >= length(lines[place]) and place < len(lines) - 1:
        before, place = before - length(lines[place]), place + 1
    return place


class _Code(CodeBlock):
    """Code in the terminal's own colours, without a box, to be copied as it is."""

    def __rich_console__(self, console, options):  # type: ignore[no-untyped-def]
        yield Syntax(
            str(self.text).rstrip(), self.lexer_name, theme="ansi_dark", background_color="default", word_wrap=True,
            padding=(0, 0, 0, 2),
        )  # fmt: skip


class _Heading(Heading):
    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")  # type: ignore[arg-type]


class _Rendered(Markdown):
    """Markdown with the line breaks that its text has: models mean them."""

    elements = {**Markdown.elements, "fence": _Code, "code_block": _Code, "heading_open": _Heading}

    def __init__(self, text: str) -> None:
        super().__init__(text, hyperlinks=False)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


def _whole(text: str) -> str:
    """A block in the making, less the marks that what follows has yet to explain, and with open ones closed."""
    if text.lstrip().startswith(("```", "~~~")):
        return text
    text = re.sub(r"(\n[ \t]*[-=*_#>|~`+\d.:]*|[*_`~\[]+)[ \t]*$", "", text)
    for mark in ("`", "**"):
        if text.count(mark) % 2:
            text = text.rstrip() + mark
    return text


def _colors() -> Literal["standard", "truecolor"] | None:
    if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return None
    return "truecolor" if os.environ.get("COLORTERM") in ("truecolor", "24bit") else "standard"

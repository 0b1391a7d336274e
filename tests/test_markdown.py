"""Markdown on a terminal, as a terminal emulator shows it."""

from __future__ import annotations

import io

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_runtime.cli import markdown
from gguf_runtime.cli.markdown import MarkdownStream

TEXT = """# A title

A paragraph with **bold words**, `code`, *emphasis* and a long sentence that has to be broken into several lines.
A second line of it.

1. one
2. two
   - nested, with 日本語 text that is wide
   - more

```python
def add(a, b):
    return a + b  # ***not bold***
```

> A quotation

| a | b |
|---|---|
| 1 | 2 |

## The end
Last words
"""


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render at every push."""
    monkeypatch.setattr(markdown, "_INTERVAL", 0)
    monkeypatch.setattr(markdown, "_SHARE", 0)


def shown(pieces: list[str], columns: int = 40, lines: int = 60) -> list[str]:
    """What stands on the terminal after these pieces."""
    screen = pyte.Screen(columns, lines)
    terminal = pyte.Stream(screen)
    screen.set_mode(pyte.modes.LNM)  # as the system's terminals do with \n
    out = io.StringIO()
    stream = MarkdownStream(out, lambda: (columns, lines))
    for piece in pieces:
        stream.push(piece)
        terminal.feed(out.getvalue())
        out.seek(0)
        out.truncate()
    stream.finish()
    terminal.feed(out.getvalue())
    return [line.rstrip() for line in screen.display]


def wrapped(lines: list[str], columns: int) -> list[str]:
    """Lines as a terminal that was made so narrow shows them."""
    return [line[i : i + columns] for line in lines for i in range(0, max(1, len(line)), columns)]


@pytest.mark.parametrize(("narrow", "lines"), [(25, 30), (60, 30), (25, 8), (60, 8)])
def test_the_terminal_may_be_resized(narrow: int, lines: int) -> None:
    words = [f"word{i}" for i in range(60)]
    size = [40, lines]
    out = io.StringIO()
    stream = MarkdownStream(out, lambda: (size[0], size[1]))
    screen, stands = pyte.HistoryScreen(40, lines, history=1000), [""]
    for i, word in enumerate(words):
        if i == 40:  # what the terminal does by itself: it breaks its lines anew
            size[0] = narrow
            stands = wrapped([line.rstrip() for line in stands], narrow)
            screen = pyte.HistoryScreen(narrow, lines, history=1000)
            screen.set_mode(pyte.modes.LNM)
            pyte.Stream(screen).feed("\n".join(stands))
        screen.set_mode(pyte.modes.LNM)
        stream.push(word + " ")
        pyte.Stream(screen).feed(out.getvalue())
        out.seek(0)
        out.truncate()
        top = ["".join(row[x].data for x in range(screen.columns)).rstrip() for row in screen.history.top]
        stands = top + [line.rstrip() for line in screen.display[: screen.cursor.y + 1]]
    text, all_of_it = "".join(stands).replace(" ", ""), "".join(words)
    # what has left a low screen stays, and the line that goes on from it may begin once more
    n_again = len(text) - len(all_of_it)
    assert n_again == 0 if lines == 30 else 0 <= n_again < narrow
    assert any(all_of_it == text[:n] + text[n + n_again :] for n in range(len(all_of_it) + 1))


def test_blocks() -> None:
    text = [line for line in shown([TEXT]) if line]
    assert text[0] == "A title" and "**" not in "".join(text[:4])
    assert "  def add(a, b):" in text and "      return a + b  # ***not bold***" in text
    assert any("日本語" in line.replace(" ", "") for line in text)
    assert "A second line of it." in text
    assert text[-1] == "Last words"


def test_blocks_are_apart_and_the_cursor_ends_below() -> None:
    lines = shown(["one\n\ntwo\n\n- a\n- b\n"])
    assert lines[:7] == ["one", "", "two", "", " • a", " • b", ""]


@given(st.lists(st.integers(0, len(TEXT)), max_size=40))
@settings(max_examples=25, deadline=None)
def test_pieces_make_no_difference(cuts: list[int]) -> None:
    places = sorted({0, len(TEXT), *cuts})
    pieces = [TEXT[a:b] for a, b in zip(places, places[1:], strict=False)]
    assert shown(pieces) == shown([TEXT])


def test_one_character_at_a_time() -> None:
    assert shown(list(TEXT)) == shown([TEXT])


def test_what_is_finished_is_not_written_again() -> None:
    out = io.StringIO()
    stream = MarkdownStream(out, lambda: (40, 60))
    for letter in TEXT * 3:
        stream.push(letter)
    stream.finish()
    assert out.getvalue().count("A paragraph with") < 150  # once for each letter of its paragraph at most
    written = io.StringIO()
    stream = MarkdownStream(written, lambda: (40, 60))
    for letter in "word " * 300:
        stream.push(letter)
    stream.finish()
    # of a long paragraph, only the last line is written anew: not all of it for each letter
    assert len(written.getvalue()) < 1500 * 150


def test_a_block_taller_than_the_screen() -> None:
    text = "```\n" + "".join(f"line {i}\n" for i in range(50)) + "```\nend\n"
    assert shown(list(text), lines=10)[-6:] == ["  line 47", "  line 48", "  line 49", "", "end", ""]


def test_control_characters_do_nothing() -> None:
    assert shown(["a\x1b[2Jb\x07\x9b31mc\x1b]0;title\x07"])[0] == "a[2Jb31mc]0;title"


@given(st.text(alphabet="ab *_`#-|>\n1.~[]()!\\", max_size=80))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_shown(text: str) -> None:
    # where an empty list or a rule stands, blank lines depend on what is rendered together
    letter_by_letter, at_once = ([line for line in shown(pieces) if line] for pieces in (list(text), [text]))
    assert letter_by_letter == at_once

"""`ggrun chat` through pipes, and on a terminal as a person uses it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import command_line
from tests.test_cli import posix

OPTIONS = ["-n", "8", "--temp", "0", "--ignore-eos"]


def chat(model: Path, text: str, *options: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    line = [*command_line(), "chat", str(model), *OPTIONS, *options]
    environment = os.environ | ({"XDG_DATA_HOME": str(data)} if data else {})
    return subprocess.run(line, input=text, capture_output=True, encoding="utf-8", timeout=60, env=environment)


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, model: Path, data: Path, *options: str, columns: int = 80) -> None:
        import pty

        line = [*command_line(), str(model), *OPTIONS, *options]
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            os.environ |= {"XDG_DATA_HOME": str(data), "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
            os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"
            os.execv(line[0], line)
        self.shown = ""

    def until(self, text: str, seconds: float = 20) -> str:
        """Wait for this text (which may be split by colours); what was shown until then, without them."""
        end = time.monotonic() + seconds
        while text not in (plain := re.sub(r"\x1b(\[[\d;?]*[a-zA-Z]|\][^\x07]*\x07)", "", self.shown)):
            assert time.monotonic() < end, plain
            if select.select([self.terminal], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # the other end is closed
                    self.shown += os.read(self.terminal, 65536).decode("utf-8", "replace")
        self.shown = plain[plain.index(text) + len(text) :]  # the next text may have come at the same time
        return plain

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def code(self) -> int:
        """The exit code, once it has ended."""
        for _ in range(1000):
            with contextlib.suppress(OSError):
                if select.select([self.terminal], [], [], 0)[0]:
                    os.read(self.terminal, 65536)
            time.sleep(0.01)
            child, status = os.waitpid(self.child, os.WNOHANG)
            if child:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("the chat does not end")


@pytest.fixture
def terminal(chat_model: Path, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(chat_model, tmp_path)
    yield terminal
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(terminal.child, signal.SIGKILL)
        os.waitpid(terminal.child, 0)
    os.close(terminal.terminal)


def test_through_pipes(chat_model: Path) -> None:
    done = chat(chat_model, "Hello\n\n/undo\nHello\n/regen\n/bye\nnever read\n")
    first, second, third = done.stdout.splitlines()
    assert done.returncode == 0 and first == second == third
    assert "taken back: Hello" in done.stderr


def test_the_model_sees_what_the_person_set(chat_model: Path) -> None:
    plain = chat(chat_model, "Hello\n").stdout
    assert (
        chat(chat_model, "/system Be quiet.\nHello\n").stdout == chat(chat_model, "Hello\n", "-sys", "Be quiet.").stdout
    )
    assert chat(chat_model, "/set max_tokens 3\nHello\n").stdout.strip() in plain
    assert "temperature must be" in chat(chat_model, "/set temperature nan\n").stderr
    for wrong in ("/set nothing 3", "/set top_k x", "/nothing", "/load nothing", "/regen", "/undo", "/save", "/s x"):
        done = chat(chat_model, f"{wrong}\nHello\n")
        assert done.stdout == plain and len(done.stderr.splitlines()) == 2 and "bug" not in done.stderr, done.stderr


def test_conversations_are_kept(chat_model: Path, tmp_path: Path) -> None:
    done = chat(chat_model, "Hello\n/save greeting\nAnd then?\n", data=tmp_path)
    again = chat(chat_model, "/load greeting\nAnd then?\n", data=tmp_path)
    assert again.stdout.splitlines() == done.stdout.splitlines()[1:] and "> Hello" in again.stderr
    damaged = tmp_path / "x.json"
    damaged.write_text('{"messages": [{"role": 3}]}')
    assert "no conversation" in chat(chat_model, f"/load {damaged}\n").stderr


def test_what_is_kept_is_not_written_over_unasked(chat_model: Path, tmp_path: Path) -> None:
    first = chat(chat_model, "Hello\n/save a.b\n", data=tmp_path)
    (kept,) = (tmp_path / "ggrun" / "conversations").iterdir()
    assert kept.name == "a.b.json" and str(kept) in first.stderr
    before = kept.read_bytes()
    again = chat(chat_model, "Other\n/save a.b\n", data=tmp_path)
    assert "is there already" in again.stderr and kept.read_bytes() == before
    path = tmp_path / "elsewhere.json"
    chat(chat_model, f"Hello\n/save {path}\n", data=tmp_path)
    assert path.exists()


def test_commands_say_what_is_wrong(chat_model: Path) -> None:
    for line, words in {
        "/set temperature abc": "temperature is a number, which 'abc' is not",
        "/set top_k 1.5": "top_k is a whole number",
        "/set max_tokens": "max_tokens is a whole number, which 'nothing' is not",
        "/edit": "no message to change",
    }.items():
        assert words in chat(chat_model, f"{line}\n").stderr, line
    as_elsewhere = chat(chat_model, "/set parameter seed 3\n/SET seed random\n/exit\nnever read\n")
    assert "seed: 3\nseed: random\n" in as_elsewhere.stderr and not as_elsewhere.stdout.strip()


def test_an_answer_without_its_form_is_told(chat_model: Path) -> None:
    assert "does not have the form" in chat(chat_model, "Hello\n", "--regex", "[a-z]{400}").stderr


def test_a_message_that_does_not_fit(chat_model: Path) -> None:
    done = chat(chat_model, "word " * 300 + "\nHello\n")
    assert "room for 256" in done.stderr
    assert done.stdout == chat(chat_model, "Hello\n").stdout


def test_a_model_without_template(model: Path) -> None:
    done = chat(model, "Hello\n")
    assert done.returncode == 1 and "chat template" in done.stderr and done.stdout == ""


@posix
def test_on_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    terminal.until("/help")
    terminal.until("> ")
    terminal.type("/help\r")
    assert "/regen" in terminal.until("editor")
    terminal.type("Hello\r")
    terminal.until("stopped after 8 tokens")
    terminal.type("two\x1b\rlines\r")  # Alt-Enter between them
    terminal.until("stopped after 8 tokens")
    terminal.type("\x1b[200~pasted\nin one\n\x1b[201~")  # as terminals paste
    time.sleep(0.3)
    terminal.type("\r")
    terminal.until("stopped after 8 tokens")
    terminal.type("\x04")
    assert terminal.code() == 0
    history = (tmp_path / "ggrun" / "history").read_text()
    entries = [e for e in history.split("\n# ") if "+" in e]
    assert len(entries) == 4
    assert "+two\n+lines" in history and "+pasted\n+in one" in history


def in_an_answer(model: Path, data: Path) -> Terminal:
    """A chat while it answers, without end."""
    terminal = Terminal(model, data, "-n", "-1", "--context-shift")
    terminal.until("> ")
    terminal.type("Hello\r")
    time.sleep(1)
    return terminal


@posix
def test_ctrl_c_stops_the_answer_and_not_the_chat(chat_model: Path, tmp_path: Path) -> None:
    terminal = in_an_answer(chat_model, tmp_path)
    terminal.type("\x03")
    terminal.until("stopped; /regen")
    terminal.until("> ")
    terminal.type("\x03")
    terminal.until("leaves")
    terminal.type("/bye\r")
    assert terminal.code() == 0


@posix
def test_a_message_can_be_edited(terminal: Terminal) -> None:
    terminal.until("> ")
    terminal.type("Hello\r")
    terminal.until("stopped after 8 tokens")
    terminal.type("/edit\r")
    terminal.until("> Hello")
    terminal.type(" again\r")
    terminal.until("stopped after 8 tokens")
    terminal.type("/show\r")
    assert "2 messages" in terminal.until("verbose")
    terminal.type("/bye\r")
    assert terminal.code() == 0


@posix
def test_save_asks_before_it_writes_over(terminal: Terminal) -> None:
    terminal.until("> ")
    terminal.type("/save x\r")
    terminal.until("kept in")
    terminal.type("/save x\r")
    terminal.until("[y/N]")
    terminal.type("n\r")
    terminal.until("stays as it is")
    terminal.type("/save x\r")
    terminal.until("[y/N]")
    terminal.type("y\r")
    terminal.until("kept in")
    terminal.type("/bye\r")
    assert terminal.code() == 0


@posix
def test_enter_begins_a_line_where_lines_are_asked_for(chat_model: Path, tmp_path: Path) -> None:
    terminal = Terminal(chat_model, tmp_path, "-mli", "-st")
    terminal.until("> ")
    terminal.type("one\rtwo\\\r")
    terminal.until("stopped after 8 tokens")
    assert terminal.code() == 0  # after one message, as -st asks
    assert "+one\n+two" in (tmp_path / "ggrun" / "history").read_text()


@posix
@pytest.mark.parametrize("at", ["> ", "Hello"])
def test_sigterm_leaves_the_terminal_as_it_was(chat_model: Path, tmp_path: Path, at: str) -> None:
    import termios

    terminal = Terminal(chat_model, tmp_path, "-n", "-1", "--context-shift") if at == "Hello" else Terminal(
        chat_model, tmp_path
    )  # fmt: skip
    terminal.until("> ")
    if at == "Hello":
        terminal.type("Hello\r")
        time.sleep(1)
    os.kill(terminal.child, signal.SIGTERM)
    assert terminal.code() == 143
    assert termios.tcgetattr(terminal.terminal)[3] & (termios.ECHO | termios.ICANON)
    assert "Traceback" not in terminal.shown


@posix
def test_help_fits_a_narrow_terminal(chat_model: Path, tmp_path: Path) -> None:
    terminal = Terminal(chat_model, tmp_path, columns=40)
    terminal.until("> ")
    terminal.type("/help\r")
    shown = terminal.until("Write in your editor")
    lines = shown[shown.index("  /help\r\n    What can be done here") :].splitlines()
    assert max(map(len, lines)) < 40 and "    Take back the last message and its" in lines
    terminal.type("/bye\r")
    assert terminal.code() == 0


@posix
def test_an_answer_goes_on_after_ctrl_z(chat_model: Path, tmp_path: Path) -> None:
    import termios

    terminal = in_an_answer(chat_model, tmp_path)
    os.kill(terminal.child, signal.SIGSTOP)
    os.waitpid(terminal.child, os.WUNTRACED)
    echoing = termios.tcgetattr(terminal.terminal)
    echoing[0] |= termios.ICRNL
    echoing[3] |= termios.ECHO | termios.ICANON  # as shells leave it
    termios.tcsetattr(terminal.terminal, termios.TCSANOW, echoing)
    os.kill(terminal.child, signal.SIGCONT)
    time.sleep(0.5)
    assert not termios.tcgetattr(terminal.terminal)[3] & termios.ECHO
    terminal.type("\x03")
    terminal.until("stopped; /regen")
    terminal.until("> ")
    terminal.type("/bye\r")
    assert terminal.code() == 0


@posix
def test_options_for_one_answer_need_a_prompt(chat_model: Path, tmp_path: Path) -> None:
    terminal = Terminal(chat_model, tmp_path, "-o", str(tmp_path / "out"))
    terminal.until("-o is not for a chat")
    assert terminal.code() == 2


@posix
def test_ctrl_c_while_loading_ends_it(chat_model: Path, tmp_path: Path) -> None:
    terminal = Terminal(chat_model, tmp_path)
    os.kill(terminal.child, 0)
    time.sleep(0.12)
    terminal.type("\x03")
    terminal.type("\x04")  # it may have been ready already
    assert terminal.code() in (0, 130, -2)


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_no_standard_input_at_all(chat_model: Path) -> None:
    line = [*command_line(), "chat", str(chat_model)]
    done = subprocess.run(["sh", "-c", f"{shlex.join(line)} <&-"], capture_output=True, timeout=60)
    assert done.returncode == 0 and not done.stderr

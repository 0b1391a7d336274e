"""What a command-line process owes its surroundings: streams, signals, exit."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import NoReturn, TextIO

from ..files import give_up

_LINE = 400  # characters of an error at most
_SIGNALED = 128  # and the signal's number, as shells count
INTERRUPTED = _SIGNALED + signal.SIGINT
#: What asks a process to end.
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])  # all but tab and newline


def prepare() -> None:
    """Text in UTF-8 whatever the locale, warnings in one line, and signals that work at once."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by the parent
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace", newline="\n")
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    if sys.platform == "win32":
        _have_escapes_understood()
    warnings.showwarning = lambda message, *_: print(f"ggrun: {message}", file=sys.stderr)
    _exit_on_signals()


def leave(code: int) -> NoReturn:
    """End the process now. There is nothing to clean up that the system does not, and it does it faster."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader may be gone
            stream.flush()
    os._exit(code)


def describe(error: Exception) -> str:
    """An error in one line. Errors of ours explain themselves; others need their type."""
    ours = type(error).__module__.split(".")[0] in ("gguf_runtime", "click")
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError) and not ours:
        text = "out of memory"
    elif ours or isinstance(error, ValueError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error} (this is a bug in ggrun; --verbose shows where)"
    text = " ".join(text.split())
    return text if len(text) <= _LINE else f"{text[: _LINE // 2]} … {text[-_LINE // 2 :]}"


def harmless(text: str) -> str:
    """The text without control characters, with which a model could do to the terminal what it likes."""
    return text.translate(_CONTROL)


def _have_escapes_understood() -> None:
    """Old windows of Windows show escape sequences as they are unless they are asked not to."""
    if sys.platform == "win32":
        import ctypes

        for number in (-11, -12):  # standard output, standard error
            handle, mode = ctypes.windll.kernel32.GetStdHandle(number), ctypes.c_uint32()
            if ctypes.windll.kernel32.GetConsoleMode(handle, ctypes.byref(mode)):
                ctypes.windll.kernel32.SetConsoleMode(handle, mode.value | 4)


def dimmed(text: str) -> str:
    """Text that is of less account, as terminals show it; they get it without control characters."""
    text = harmless(text)
    return text if os.environ.get("TERM") == "dumb" else f"\x1b[2m{text}\x1b[22m"


def _exit_on_signals() -> None:
    """Exit as soon as a signal comes that asks for it, and leave nothing behind.

    Python runs signal handlers between bytecodes of the main thread, which may be in a kernel for seconds.
    Its wake-up descriptor is written to at once, and a thread here waits for that.
    """
    heard = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup and & ask
    reader, writer = os.pipe()
    if os.name != "nt":
        os.set_blocking(writer, False)

    def watch() -> None:
        while (number := os.read(reader, 1)[0]) not in heard:
            pass
        give_up()
        if sys.stdout.isatty():
            with contextlib.suppress(OSError):  # it may have hung up
                os.write(sys.stdout.fileno(), b"\n")
        os._exit(_SIGNALED + number)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    signal.set_wakeup_fd(writer)
    for number in heard:
        signal.signal(number, lambda *_: watcher.join())  # the main thread writes nothing more


class Stop:
    """Ctrl-C as a wish to stop what is under way, and not the process.

        with Stop() as stop:
            for piece in answer:
                stop.gentle = True
                if stop.wished: break

    Until `gentle` is set, and at a second Ctrl-C, KeyboardInterrupt is raised wherever the main thread is. Other
    signals that end the process raise SystemExit there, for the terminal to be left as it was found.
    """

    def __init__(self) -> None:
        self.gentle = self.wished = False

    def __enter__(self) -> Stop:
        self._wakeup = signal.set_wakeup_fd(-1)  # takes _exit_on_signals out of service
        self._before = {number: signal.getsignal(number) for number in _ENDING}
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN or number == signal.SIGINT:
                signal.signal(number, self._handle if number == signal.SIGINT else _raise_exit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wished or not self.gentle:
            raise KeyboardInterrupt
        self.wished = True


def _raise_exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_SIGNALED + number)


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """Keep what is typed while nobody reads for who reads next, and do not show it."""
    if os.name == "nt" or not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    settings = [*before]
    settings[0] &= ~termios.ICRNL  # Enter stays what it is
    settings[3] &= ~(termios.ECHO | termios.ICANON)

    def apply() -> None:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)

    apply()
    try:
        with resumed(apply):
            yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextlib.contextmanager
def resumed(action: Callable[[], None]) -> Iterator[None]:
    """Do this whenever the process goes on after Ctrl-Z."""
    if sys.platform == "win32":
        yield
        return
    before = signal.getsignal(signal.SIGCONT)

    def handle(number: int, frame: FrameType | None) -> None:
        if callable(before):
            before(number, frame)
        action()

    signal.signal(signal.SIGCONT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, before)

"""The command line, `ggrun`. Start-up is part of every answer, so imports wait until they are needed."""

from __future__ import annotations


def main() -> None:
    """The entry point of the process: run the command line, then exit."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # before anything else: no traceback for Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from . import process

    process.prepare()
    from .app import run

    process.leave(run())

"""The command line, `ggrun`. Start-up is part of every answer, so imports wait until they are needed."""

from __future__ import annotations


def main() -> None:
    """The entry point of the process: run the command line, then exit."""
    from . import process

    process.prepare()  # before anything else, for Ctrl-C to be quiet from the start
    from .app import run

    process.leave(run())

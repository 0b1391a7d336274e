"""The command line, `ggrun`. Start-up is part of every answer, so imports wait until they are needed."""

from .app import main

__all__ = ["main"]

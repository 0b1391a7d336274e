"""ggrun: a GGUF runtime, CPU first, in Python.

Words that mean one thing each: a *sequence* is one text and the pages that hold what is computed of it; a *chunk* is
tokens of one that a *step* computes, a *batch* the chunks of one pass; a *stage* is layers in a row on one device,
which a *backend* runs; a *slot* is where the cache keeps what one operation needs of earlier tokens. docs/internals.md
has the rest, and the way of a token.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers understand it: to import typing takes a while, in which Ctrl-C is not handled
if TYPE_CHECKING:
    from .llm import LLM

__version__ = "0.2.0"
__all__ = ["LLM"]


def __getattr__(name: str) -> object:
    """`LLM` on demand, so that `import gguf_runtime` (and the command line's start) stays cheap."""
    if name == "LLM":
        from .llm import LLM

        return LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""ggrun: a GGUF runtime, CPU first, in Python."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers understand it: to import typing takes a while, in which Ctrl-C is not handled
if TYPE_CHECKING:
    from .llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM"]


def __getattr__(name: str) -> object:
    """`LLM` on demand, so that `import gguf_runtime` (and the command line's start) stays cheap."""
    if name == "LLM":
        from .llm import LLM

        return LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

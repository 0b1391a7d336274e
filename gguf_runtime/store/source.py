"""What the places that models come from have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .progress import Progress


@dataclass(frozen=True)
class Remote:
    """A file to download. size, sha256: None where they are not known before."""

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def gated(what: str) -> str:
    """What to do where Hugging Face asks for more than a token."""
    return f"{what} asks you to accept its terms: do so on its page, and give your token in HF_TOKEN"


def file_name(path: str) -> str:
    """What to call the file of a URL's path here: its own name, without what file systems do not take."""
    name = re.sub(r"[^\w.-]", "_", path.rpartition("/")[2]).lstrip(".")
    return name if is_gguf(name) else f"{name or 'model'}.gguf"


def is_gguf(name: str) -> bool:
    """Whether a file is one by its name."""
    return name.lower().endswith(".gguf")


class Source(Protocol):
    """A place that a model comes from.

    keeper: who keeps the file of `local`; removal: how it is removed there, where that is not for ggrun to do.
    """

    @property
    def keeper(self) -> str: ...

    @property
    def removal(self) -> str: ...

    def local(self) -> Path | None:
        """The model where others keep it on this machine, if they do."""

    def fetch(self, folder: Path, progress: Progress) -> list[Path]:
        """Get the model's files, the one to open first; those that are there already are kept.

        They come into the folder, unless there is a keeper that keeps what was fetched. Raises StoreError.
        """

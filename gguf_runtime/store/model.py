"""A model on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .source import Source


@dataclass(frozen=True)
class StoredModel:
    """path: the file to open; files: all of them; name: what `-m` knows it by; keeper: who keeps the files, where that
    is not ggrun; modelfile: what it was created from."""

    name: str
    files: tuple[Path, ...]
    keeper: Source | None = None
    modelfile: Path | None = None

    @property
    def path(self) -> Path:
        return self.files[0]

    @property
    def n_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def modified(self) -> float:
        """Seconds since 1970."""
        return self.path.stat().st_mtime

    @property
    def place(self) -> str:
        """Where it is, in a few words."""
        return self.keeper.keeper if self.keeper else "created" if self.modelfile else "pulled"


def kept_by(keeper: Source, name: str, path: Path) -> StoredModel:
    """A model that somebody else keeps here."""
    return StoredModel(name, parts(path), keeper)


def parts(path: Path) -> tuple[Path, ...]:
    """A file, with the others of a split one."""
    head, found, tail = path.name.partition("-00001-of-")
    return tuple(sorted(path.parent.glob(f"{head}-?????-of-{tail}"))) if found else (path,)

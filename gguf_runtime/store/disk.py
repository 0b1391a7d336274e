"""Room on a disk, and files that take none twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .errors import StoreError
from .progress import Progress, size

_SPARE = 1 << 26  # bytes of a disk to leave free
_CHUNK = 1 << 22


def check_space(folder: Path, needed: int) -> None:
    """Raises StoreError where the disk of a folder has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + _SPARE > free:
        raise StoreError(
            f"{size(needed)} are needed and {size(free)} free on the disk of {folder}: "
            "make room, or name a folder on another disk with GGRUN_MODELS or, for hf: models, HF_HOME"
        )


def link_or_copy(old: Path, new: Path, progress: Progress) -> None:
    """Have a file under another path: as a hard link where the file system and its rights allow one."""
    new.unlink(missing_ok=True)
    try:
        os.link(old, new)
        return
    except OSError:
        total, done = old.stat().st_size, 0
    check_space(new.parent, total)
    part = new.with_name(new.name + ".part")
    try:
        with old.open("rb") as source, part.open("wb") as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)
                done += len(chunk)
                progress(done, total)
        os.replace(part, new)
    finally:
        part.unlink(missing_ok=True)

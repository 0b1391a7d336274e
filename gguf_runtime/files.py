"""Files that ggrun writes: whole or not at all, and where they are kept."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .kernels.kernel_cache import home

if TYPE_CHECKING:
    import subprocess

#: Under way, files and folders: to be removed where the process ends before they are whole.
unfinished: set[Path] = set()
#: Processes that work for this one: to be ended with it.
helpers: set[subprocess.Popen[str]] = set()


def data_folder() -> Path:
    """Where this user's data of ggrun are kept; it may have to be made."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home() / "AppData/Local") / "ggrun"
    if sys.platform == "darwin":
        return home() / "Library/Application Support/ggrun"
    return Path(os.environ.get("XDG_DATA_HOME") or home() / ".local/share") / "ggrun"


def expanded(path: str | Path) -> Path:
    """A path with ~ and ~user replaced by their folders; a user who is not known stays, as in a shell."""
    return Path(os.path.expanduser(path))


def read_text(path: str | Path, errors: str = "strict") -> str:
    """A text file, with newlines only at the ends of its lines; errors: as in bytes.decode.

    Raises OSError, and ValueError for what is no text.
    """
    try:
        text = without_mark(Path(path).read_bytes()).decode(errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8 or, with a byte order mark, UTF-16: {error.reason}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def without_mark(data: bytes) -> bytes:
    """A text without the byte order mark that some editors put first, which tells UTF-16 too: that becomes UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace").encode()
    return data.removeprefix(codecs.BOM_UTF8)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place at `path` once it is whole. Raises OSError, with the file's name.

    What is no regular file, such as /dev/null, is written to as it is.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.add(temporary)
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk
            error.filename = str(path)
        raise
    finally:
        unfinished.discard(temporary)


def give_up() -> None:
    """End what works for this process, and remove what is not whole.

    Nothing is imported here unless it must be: the main thread, which waits, may be in the middle of an import.
    """
    for helper in list(helpers):
        helper.kill()
        helper.wait()
    for path in list(unfinished):
        with contextlib.suppress(OSError):
            if path.is_dir():
                import shutil  # loaded already, by tempfile, which made the folder

                shutil.rmtree(path)
            else:
                path.unlink()

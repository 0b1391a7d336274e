"""Compiled kernels on disk: those that came with the wheel, and a cache that each user has.

A folder for each combination of instruction set and kernel source (in the cache: of the compilers' versions too), one
file per kernel. Files are written under a temporary name and renamed, so processes that start together do not disturb
each other; a damaged file is compiled again, and a cache that cannot be written is replaced by a temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .isa import Isa

_MAGIC = b"ggrun-kernel-2\n"
_ROOM = 4 << 20  # bytes that the kernels of a model take at most
#: Where a wheel has kernels; `make wheel` puts them there.
BUILT = Path(__file__).parent / "ready-made"


class Image(NamedTuple):
    """A compiled kernel: the names of its arguments, its machine code, and where in this it begins."""

    arguments: list[str]
    entry: int
    code: bytes


class Cache:
    """Where the kernels of an instruction set are kept."""

    def __init__(self, isa: Isa) -> None:
        self.built = BUILT / folder_name(isa)
        self.folder = cache_root() / "kernels" / f"{folder_name(isa)}-{_hash(_versions().encode())}"

    def read(self, name: str) -> Image | None:
        """A kernel that is kept, or None."""
        return read(self.folder, name) or read(self.built, name)

    @contextmanager
    def writable(self) -> Iterator[Path]:
        """The folder to write to; a temporary one, and a warning, where that cannot be, or the disk is full."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.write(bytes(_ROOM))
        except OSError as error:
            _warn(f"{self.folder.parent}: {error.strerror or error}")
            with tempfile.TemporaryDirectory(prefix="ggrun-") as folder:
                yield Path(folder)
        else:
            yield self.folder


def write(folder: Path, name: str, image: Image) -> None:
    """Put a compiled kernel into a folder, whole or not at all."""
    code = zlib.compress(image.code, 9)
    header = json.dumps({"arguments": image.arguments, "entry": image.entry, "crc": zlib.crc32(code)}).encode()
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(_MAGIC + struct.pack("<I", len(header)) + header + code)
    os.chmod(file.name, 0o644)
    os.replace(file.name, _file(folder, name))


def read(folder: Path, name: str) -> Image | None:
    """A kernel out of a folder, or None where its file is missing or damaged."""
    try:
        raw = _file(folder, name).read_bytes()
        start = len(_MAGIC) + 4
        end = start + struct.unpack_from("<I", raw, len(_MAGIC))[0]
        header, code = json.loads(raw[start:end]), raw[end:]
        if not raw.startswith(_MAGIC) or header["crc"] != zlib.crc32(code):
            return None
        return Image(header["arguments"], header["entry"], zlib.decompress(code))
    except (OSError, ValueError, KeyError, struct.error, zlib.error):
        return None


def folder_name(isa: Isa) -> str:
    """Tells kernels apart that differ: by instruction set, by the system's calling convention, by their source."""
    return f"{isa.arch}-{isa.name}-{'win' if sys.platform == 'win32' else 'unix'}-{_source_key()}"


@cache
def _source_key() -> str:
    """A hash of every kernel's source."""
    root = Path(__file__).parent
    files = sorted(path for folder in (".", "simd", "formats", "cpu") for path in (root / folder).glob("*.py"))
    return _hash(b"".join(path.name.encode() + path.read_bytes().replace(b"\r\n", b"\n") for path in files))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@cache
def _versions() -> str:
    """Numba's and llvmlite's versions, read off the names of their installed folders: importing costs 0.3 s."""
    found = []
    for entry in sys.path:
        try:
            names = os.listdir(entry or ".")
        except OSError:
            continue
        found += [n for n in names if n.endswith(".dist-info") and n.startswith(("numba-", "llvmlite-"))]
    return f"{sys.version_info[:2]} {' '.join(sorted(found))}"


def cache_root() -> Path:
    """Where this user keeps what can be made again; it may have to be made."""
    if root := os.environ.get("GGRUN_CACHE"):
        return Path(root)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home() / "AppData/Local") / "ggrun" / "cache"
    if sys.platform == "darwin":
        return home() / "Library/Caches/ggrun"
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "ggrun"


def home() -> Path:
    """The user's folder; for a user who has none, as in a container that knows no name for his number, a place where
    nothing is and nothing can be kept."""
    with suppress(RuntimeError):
        return Path.home()
    return Path(os.devnull)


def _file(folder: Path, name: str) -> Path:
    return folder / (name.replace(":", "-") + ".bin")


@cache
def _warn(problem: str) -> None:
    """Say once that kernels are compiled in vain."""
    print(f"ggrun: compiled kernels cannot be kept ({problem}); GGRUN_CACHE names another folder", file=sys.stderr)

"""Opening a file, which may be split: NAME-00001-of-00003.gguf and so on, as llama-gguf-split writes them."""

from __future__ import annotations

import re
from pathlib import Path

from .cursor import GGUFError
from .file import GGUFFile, Tensor, open_one

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
#: NAME.gguf.part1of2, NAME.gguf-split-a and the like: pieces that a file was cut into anywhere.
_PIECE = re.compile(r"(.+\.gguf)[.-](part|split)[\w-]*", re.IGNORECASE)


def open_gguf(path: str | Path, mmap: bool = True) -> GGUFFile:
    """Open a GGUF file, or a split one by any of its parts.

    With `mmap` the system reads bytes as they are touched and may drop them again; without, all are read now.
    Raises GGUFError.
    """
    file = _open(Path(path), mmap)
    try:
        return file if _number(file, "split.count", 1) <= 1 else _open_all(file, mmap)
    except GGUFError:
        file.close()
        raise


def _open(path: Path, mapped: bool) -> GGUFFile:
    try:
        return open_one(path, mapped)
    except GGUFError as error:
        if path.is_file() and (match := _PIECE.fullmatch(path.name)):
            whole = match[1]
            raise GGUFError(
                f"{path}: this is a piece of {whole}, not a model by itself: join all of its pieces in their order, "
                f"as in `cat {whole}[.-]{match[2]}* > {whole}` (on Windows, `copy /b PIECE1 + PIECE2 {whole}`)"
            ) from error
        raise


def _open_all(part: GGUFFile, mapped: bool) -> GGUFFile:
    """All parts as one file, given any of them."""
    count, number = _number(part, "split.count", 1), _number(part, "split.no", 0)
    name = _NAME.fullmatch(part.path.name)
    if not name or (int(name[2]), int(name[3])) != (number + 1, count):
        ending = f"-{number + 1:05}-of-{count:05}.gguf"
        raise GGUFError(f"{part.path}: this is part {number + 1} of {count}; its name must end in {ending}")
    parts: list[GGUFFile] = []
    try:
        for i in range(count):
            path = part.path.with_name(f"{name[1]}-{i + 1:05}-of-{count:05}{name[4]}")
            parts.append(part if i == number else open_one(path, mapped))
            if (_number(parts[i], "split.no", 0), _number(parts[i], "split.count", 1)) != (i, count):
                raise GGUFError(f"{path}: 'split.no' and 'split.count' do not say part {i + 1} of {count}")
        return _join(parts)
    except GGUFError:
        for opened in parts:
            opened.close()
        raise


def _join(parts: list[GGUFFile]) -> GGUFFile:
    """One file with the tensors of all parts and the first one's metadata."""
    tensors: dict[str, Tensor] = {}
    for part in parts:
        if twice := tensors.keys() & part.tensors.keys():
            raise GGUFError(f"{part.path}: tensor {min(twice)!r} is in an earlier part too")
        tensors |= part.tensors
    first = parts[0]
    expected = _number(first, "split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise GGUFError(f"{first.path}: key 'split.tensors.count' is {expected}, but it is {len(tensors)}")
    files = [file for part in parts for file in part.parts]
    return GGUFFile(first.path, first.version, first.metadata, tensors, files)


def _number(file: GGUFFile, key: str, default: int) -> int:
    value = file.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GGUFError(f"{file.path}: key {key!r} is {value!r}, not a number of parts or tensors")
    return value

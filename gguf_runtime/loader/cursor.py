"""A place in the bytes of a GGUF file: reads that cannot leave the file, errors that say where they are."""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import Any

_U32, _U64 = Struct("<I"), Struct("<Q")


class GGUFError(Exception):
    """A file that is not a GGUF, is damaged, or holds what is not supported; says where and what."""


class ByteCursor:
    """Reads little-endian values one after another from `data`, a view of all bytes of the file at `path`.

    `reading` names what is being read, for error messages. Every read raises GGUFError where the file ends.
    """

    def __init__(self, data: memoryview, path: Path, position: int = 0, reading: str = "the header") -> None:
        self.data, self.path, self.position, self.reading = data, path, position, reading
        self.size = len(data)

    def at(self, position: int) -> ByteCursor:
        """Another cursor, at a place in the same file."""
        return ByteCursor(self.data, self.path, position, self.reading)

    def fail(self, problem: str, position: int | None = None) -> GGUFError:
        """An error that names the file, the byte and what was being read."""
        byte = self.position if position is None else position
        return GGUFError(f"{self.path}: byte {byte}, {self.reading}: {problem}")

    def need(self, count: int, n_bytes: int = 1) -> None:
        """Check that `count` things of at least `n_bytes` each can follow, before any memory is taken."""
        left = self.size - self.position
        if count * n_bytes > left:
            needed = f"{count} × {n_bytes}" if n_bytes > 1 else str(count)
            raise self.fail(f"the file ends too early: {needed} bytes needed, {left} left")

    def scalar(self, layout: Struct) -> Any:
        self.need(layout.size)
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return value

    def u32(self) -> int:
        return int(self.scalar(_U32))

    def u64(self) -> int:
        return int(self.scalar(_U64))

    def string(self, errors: str = "strict") -> str:
        """A string: its length as u64, then UTF-8; errors: what to do about bytes that are not, as in bytes.decode."""
        start = self.position
        length = self.u64()
        self.need(length)
        raw = bytes(self.data[self.position : self.position + length])
        try:
            text = raw.decode(errors=errors)
        except UnicodeDecodeError as error:
            raise self.fail(f"a string that is not UTF-8 ({error.reason})", start) from None
        self.position += length
        return text

"""GGUF files put together byte by byte, for what gguf-py would not write."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from gguf_runtime.loader import GGUFFile, open_gguf


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def key(name: str, typed_value: bytes) -> bytes:
    return string(name) + typed_value


def value(number: int, body: bytes) -> bytes:
    """A value of type `number`."""
    return struct.pack("<I", number) + body


def array_body(number: int, elements: Sequence[bytes]) -> bytes:
    """An array of elements of type `number`, without the type that says that it is an array."""
    return struct.pack("<IQ", number, len(elements)) + b"".join(elements)


def array(number: int, elements: Sequence[bytes]) -> bytes:
    return value(9, array_body(number, elements))


def tensor_info(name: str, dims: Sequence[int], number: int, offset: int) -> bytes:
    """dims: fastest first."""
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, offset)


def raw_file(keys: Sequence[bytes] = (), tensors: Sequence[bytes] = (), version: int = 3) -> bytes:
    """Everything up to the tensors' bytes, aligned to 32."""
    content = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return content + bytes(-len(content) % 32)


def open_bytes(folder: Path, content: bytes, mmap: bool = True) -> GGUFFile:
    path = folder / "file.gguf"
    path.write_bytes(content)
    return open_gguf(path, mmap)

"""GGUF files: the header, the metadata, and tensors as views of the mapped file.

Format (docs/gguf.md of the ggml project), little-endian: "GGUF", version u32, number of tensors u64, number of keys u64;
the keys with their values; name, number of dimensions u32, dimensions u64 (fastest first), type u32 and offset u64 of
each tensor; then, from the next multiple of `general.alignment`, the tensors' bytes.
"""

from __future__ import annotations

import math
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from .cursor import Cursor, GGUFError
from .metadata import Value, read_value
from .tensor_types import TENSOR_TYPES

_MAX_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32


class Tensor(NamedTuple):
    """A tensor in the file. `shape` is in NumPy's order (rows, columns); `data` are its bytes, u8[n_bytes], read-only."""

    name: str
    shape: tuple[int, ...]
    type: str
    data: np.ndarray

    @property
    def n_bytes(self) -> int:
        return self.data.nbytes


class GGUFFile:
    """An open file, or all parts of a split one. `metadata` and `tensors` are in the file's order."""

    def __init__(self, path: Path, mapped: bool) -> None:
        self.path = path
        self.metadata: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {}
        self._map = _map(path, mapped)
        cursor = Cursor(self._map, path)
        self.version, n_tensors, n_keys = _read_header(cursor)
        self._read_metadata(cursor, n_keys)
        self._read_tensors(cursor, n_tensors)

    def _read_metadata(self, cursor: Cursor, n_keys: int) -> None:
        cursor.need(n_keys, 13)
        for _ in range(n_keys):
            cursor.reading = f"key {len(self.metadata) + 1} of {n_keys}"
            start = cursor.position
            key = cursor.string()
            cursor.reading = f"key {key!r}"
            if key in self.metadata:
                raise cursor.fail("the key occurs twice", start)
            self.metadata[key] = read_value(cursor)

    def _read_tensors(self, cursor: Cursor, n_tensors: int) -> None:
        cursor.need(n_tensors, 24)
        infos = []
        for i in range(n_tensors):
            cursor.reading = f"tensor {i + 1} of {n_tensors}"
            infos.append(_read_tensor_info(cursor))
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        base = -(-cursor.position // alignment) * alignment
        data = np.frombuffer(self._map, np.uint8)
        data.flags.writeable = False
        for name, shape, type_name, n_bytes, offset in infos:
            self.tensors[name] = Tensor(name, shape, type_name, data[base + offset : base + offset + n_bytes])

    def close(self) -> None:
        """Unmap the file; tensors that are still in use keep it mapped until they go."""
        self.tensors, self.metadata = {}, {}
        try:
            self._map.close()
        except BufferError:
            pass

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read_header(cursor: Cursor) -> tuple[int, int, int]:
    if cursor.data[:4] != b"GGUF":
        raise cursor.fail("not a GGUF file")
    cursor.position = 4
    version = cursor.u32()
    if version not in (2, 3):
        raise cursor.fail(f"version {version} is not supported", 4)
    return version, cursor.u64(), cursor.u64()


def _read_tensor_info(cursor: Cursor):
    name = cursor.string()
    cursor.reading = f"tensor {name!r}"
    n_dims = cursor.u32()
    shape = tuple(reversed([cursor.u64() for _ in range(n_dims)]))
    number = cursor.u32()
    tensor_type = TENSOR_TYPES[number]
    n_bytes = math.prod(shape) // tensor_type.columns * tensor_type.bytes
    return name, shape, tensor_type.name, n_bytes, cursor.u64()


def _map(path: Path, mapped: bool) -> mmap:
    with open(path, "rb") as file:
        if mapped:
            return mmap(file.fileno(), 0, access=ACCESS_READ)
        file.seek(0, 2)
        memory = mmap(-1, file.tell())
        file.seek(0)
        file.readinto(memory)
        return memory


def open_gguf(path: str | Path, mmap: bool = True) -> GGUFFile:
    """Open a GGUF file; with `mmap` its bytes are read when they are touched, otherwise now. Raises GGUFError."""
    return GGUFFile(Path(path), mmap)

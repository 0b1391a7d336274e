"""GGUF files: the header, the metadata, and tensors as views of the mapped file.

The format (docs/gguf.md of the ggml project) is little-endian: "GGUF", version u32, number of tensors u64,
number of keys u64; each key with its value; of each tensor its name, number of dimensions u32, dimensions u64
(fastest first), type u32, offset u64; then, at the next multiple of `general.alignment`, the tensors' bytes.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from mmap import ACCESS_READ
from mmap import mmap as Map
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..kernels.tensor_types import TENSOR_TYPES
from .cursor import ByteCursor, GGUFError
from .metadata import Value, read_value

_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32


class Tensor(NamedTuple):
    """A tensor in the file. `shape` is in NumPy's order (rows, columns); `data` is u8[n_bytes], read-only."""

    name: str
    shape: tuple[int, ...]
    type: str
    data: np.ndarray

    @property
    def n_bytes(self) -> int:
        return self.data.nbytes

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop − 1 of a matrix, or of each of several; of a vector its numbers. Shares the bytes."""
        n_rows = self.shape[-2] if len(self.shape) > 1 else self.shape[0]
        if not 0 <= start < stop <= n_rows:
            raise ValueError(f"tensor {self.name} has {n_rows} rows, not {start} to {stop}")
        n_matrices = math.prod(self.shape[:-2])
        row_bytes = self.n_bytes // (n_matrices * n_rows)
        data = self.data.reshape(n_matrices, -1)[:, start * row_bytes : stop * row_bytes]
        shape = (*self.shape[:-2], stop - start, *self.shape[-1:]) if len(self.shape) > 1 else (stop - start,)
        return Tensor(f"{self.name}[{start}:{stop}]", shape, self.type, data[0] if n_matrices == 1 else data)


class Part(NamedTuple):
    """One file on disk: its bytes, and what the system said of it when it was opened."""

    path: Path
    status: os.stat_result
    data: Map


class GGUFFile:
    """An open file, or all parts of a split one; `metadata` and `tensors` are in the file's order."""

    def __init__(
        self,
        path: Path,
        version: int,
        metadata: dict[str, Value],
        tensors: dict[str, Tensor],
        parts: list[Part],
    ) -> None:
        self.path, self.version, self.metadata, self.tensors = path, version, metadata, tensors
        self.parts = parts

    def close(self) -> None:
        """Unmap the file; what is still in use elsewhere keeps it mapped until that goes."""
        self.metadata, self.tensors = {}, {}
        for part in self.parts:
            _close(part.data)

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_one(path: Path, mapped: bool) -> GGUFFile:
    """Open one file, which may be a part of a split one. Raises GGUFError."""
    part = _map(path, mapped)
    try:
        cursor = ByteCursor(memoryview(part.data), path)
        version, n_tensors, n_keys = _read_header(cursor)
        metadata = _read_metadata(cursor, n_keys)
        tensors = _read_tensors(cursor, n_tensors, _alignment(cursor, metadata))
    except GGUFError:
        _close(part.data)
        raise
    return GGUFFile(path, version, metadata, tensors, [part])


def _map(path: Path, mapped: bool) -> Part:
    """The file's bytes, mapped, or read into memory of the same kind: aligned to a page either way."""
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise GGUFError(f"{path}: not a regular file")
            if not info.st_size:
                raise GGUFError(f"{path}: the file is empty")
            if mapped:
                return Part(path, info, Map(file.fileno(), 0, access=ACCESS_READ))
            memory = Map(-1, info.st_size)
            file.readinto(memory)
            return Part(path, info, memory)
    except (OSError, ValueError) as error:
        raise GGUFError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _close(data: Map) -> None:
    with contextlib.suppress(BufferError):  # a view of it is in use
        data.close()


def _read_header(cursor: ByteCursor) -> tuple[int, int, int]:
    """Version, number of tensors, number of keys."""
    magic = bytes(cursor.data[:4])
    if magic != b"GGUF":
        raise cursor.fail(f"not a GGUF file: it starts with {magic!r}")
    cursor.position = 4
    version = cursor.u32()
    if not version & 0xFFFF:
        raise cursor.fail("a big-endian file; these are not supported", 4)
    if version not in _VERSIONS:
        raise cursor.fail(f"GGUF version {version}; versions 2 and 3 are supported", 4)
    return version, cursor.u64(), cursor.u64()


def _read_metadata(cursor: ByteCursor, n_keys: int) -> dict[str, Value]:
    cursor.need(n_keys, 13)  # an empty key's length, a type, a byte
    metadata: dict[str, Value] = {}
    for i in range(n_keys):
        cursor.reading = f"key {i + 1} of {n_keys}"
        start = cursor.position
        key = cursor.string()
        cursor.reading = f"key {key!r}"
        if key in metadata:
            raise cursor.fail("this key is there twice", start)
        metadata[key] = read_value(cursor, key)
    return metadata


def _alignment(cursor: ByteCursor, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0 or value & (value - 1):
        raise GGUFError(f"{cursor.path}: key 'general.alignment' is {value!r}, not a power of two")
    return value


class _TensorInfo(NamedTuple):
    """What the file says of a tensor; `offset` counts from the start of all tensors' bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int
    offset: int


def _read_tensors(cursor: ByteCursor, n_tensors: int, alignment: int) -> dict[str, Tensor]:
    cursor.need(n_tensors, 32)  # an empty name's length, one dimension, type, offset
    infos: dict[str, _TensorInfo] = {}
    for i in range(n_tensors):
        cursor.reading = f"tensor {i + 1} of {n_tensors}"
        start = cursor.position
        info = _read_tensor_info(cursor)
        if info.name in infos:
            raise cursor.fail("a tensor of this name is there twice", start)
        if info.offset % alignment:
            raise cursor.fail(f"its offset {info.offset} is not a multiple of {alignment}", start)
        infos[info.name] = info

    base = -(-cursor.position // alignment) * alignment
    data = np.frombuffer(cursor.data, np.uint8)
    data.flags.writeable = False
    previous_end, previous_name = 0, ""
    for info in sorted(infos.values(), key=lambda info: info.offset):
        cursor.reading = f"tensor {info.name!r}"
        start, end = base + info.offset, base + info.offset + info.n_bytes
        if end > cursor.size:
            raise cursor.fail(f"bytes {start} to {end} are outside the file, which has {cursor.size}", start)
        if start < previous_end:
            raise cursor.fail(f"it overlaps tensor {previous_name!r}", start)
        previous_end, previous_name = end, info.name
    return {
        name: Tensor(name, info.shape, info.type, data[base + info.offset :][: info.n_bytes])
        for name, info in infos.items()
    }


def _read_tensor_info(cursor: ByteCursor) -> _TensorInfo:
    name = cursor.string()
    cursor.reading = f"tensor {name!r}"
    start = cursor.position
    n_dimensions = cursor.u32()
    if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
        raise cursor.fail(f"{n_dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are possible", start)
    shape = tuple(cursor.u64() for _ in range(n_dimensions))[::-1]
    if min(shape) == 0 or max(shape) >= 1 << 63:
        raise cursor.fail(f"the shape {shape} has a dimension that is not positive", start)
    start = cursor.position
    tensor_type = TENSOR_TYPES.get(number := cursor.u32())
    if tensor_type is None:
        raise cursor.fail(f"unknown tensor type {number}", start)
    if shape[-1] % tensor_type.columns:
        block = f"{tensor_type.name} blocks of {tensor_type.columns}"
        raise cursor.fail(f"rows of {shape[-1]} values are not whole {block}", start)
    n_bytes = math.prod(shape) // tensor_type.columns * tensor_type.bytes
    return _TensorInfo(name, shape, tensor_type.name, n_bytes, cursor.u64())

"""Graphs on their way to other machines: what lies in the model's file is named by its place there, not sent."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..graph import Graph
from ..kernels.memory import address
from ..loader import GGUFFile


class _Place(NamedTuple):
    """Of an array in a file: in which part, at which byte, and what it looks like."""

    part: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


def pack(graphs: Sequence[Graph], file: GGUFFile) -> bytes:
    """The graphs, for `unpack` of the same file elsewhere."""
    packed = io.BytesIO()
    _Packer(packed, file).dump(list(graphs))
    return packed.getvalue()


def unpack(packed: bytes, file: GGUFFile) -> list[Graph]:
    """What `pack` was given."""
    found: list[Graph] = _Unpacker(io.BytesIO(packed), file).load()
    return found


class _Packer(pickle.Pickler):
    def __init__(self, target: io.BytesIO, file: GGUFFile) -> None:
        super().__init__(target, pickle.HIGHEST_PROTOCOL)
        self._parts = [np.frombuffer(part.data, np.uint8) for part in file.parts]

    def persistent_id(self, item: Any) -> _Place | None:
        if isinstance(item, np.ndarray) and item.size:
            for i, part in enumerate(self._parts):
                offset = address(item) - address(part)
                if 0 <= offset < len(part):
                    return _Place(i, offset, item.shape, item.strides, item.dtype.str)
        return None


class _Unpacker(pickle.Unpickler):
    def __init__(self, source: io.BytesIO, file: GGUFFile) -> None:
        super().__init__(source)
        self._file = file

    def persistent_load(self, place: Any) -> np.ndarray:
        part, offset, shape, strides, dtype = place
        found: np.ndarray = np.ndarray(shape, dtype, self._file.parts[part].data, offset, strides)
        found.flags.writeable = False
        return found

"""Metadata values. An array stays in the file until somebody asks for what is in it.

The format is described in docs/gguf.md of the ggml project.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, overload

import numpy as np

from .cursor import ByteCursor

_STRING, _ARRAY = 8, 9
#: The number that a file stores → (the type's name, its layout).
_SCALARS = {
    0: ("uint8", Struct("<B")),
    1: ("int8", Struct("<b")),
    2: ("uint16", Struct("<H")),
    3: ("int16", Struct("<h")),
    4: ("uint32", Struct("<I")),
    5: ("int32", Struct("<i")),
    6: ("float32", Struct("<f")),
    7: ("bool", Struct("<?")),
    10: ("uint64", Struct("<Q")),
    11: ("int64", Struct("<q")),
    12: ("float64", Struct("<d")),
}
_MAX_DEPTH = 8  # of arrays in arrays; no known file has any
_WINDOW = 1 << 16  # bytes of strings looked at together: small enough for the L2 cache


class GGUFArray(Sequence[Any]):
    """An array in the file. len(), indexing and iteration decode only what they give.

    `element_type` is "string", "array" or a scalar type such as "int32". A string comes as str, with U+FFFD
    for bytes that are not UTF-8; `strings()` gives the bytes themselves.
    """

    __slots__ = ("_cursor", "_depth", "_elements", "element_type")

    def __init__(self, cursor: ByteCursor, depth: int = 1) -> None:
        """The array that starts at the cursor, which moves behind it. Raises GGUFError."""
        if depth > _MAX_DEPTH:
            raise cursor.fail(f"arrays nested more than {_MAX_DEPTH} deep")
        self._cursor, self._depth = cursor.at(cursor.position), depth
        number, length = cursor.u32(), cursor.u64()
        # of scalars: a view of the values; otherwise where each element starts, and where the last one ends
        self._elements: np.ndarray
        if number in _SCALARS:
            self.element_type, layout = _SCALARS[number]
            cursor.need(length, layout.size)
            dtype = np.dtype(self.element_type).newbyteorder("<")
            self._elements = np.ndarray((length,), dtype, cursor.data, cursor.position)
            cursor.position += length * layout.size
        elif number == _STRING:
            self.element_type = "string"
            self._elements = _skip_strings(cursor, length)
        elif number == _ARRAY:
            self.element_type = "array"
            self._elements = _skip_arrays(cursor, length, depth + 1)
        else:
            raise self._cursor.fail(f"unknown type {number} of an array's elements")

    def __len__(self) -> int:
        return len(self._elements) - (self.element_type in ("string", "array"))

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        if self.element_type == "string":
            start, end = self._elements[i] + 8, self._elements[i + 1]
            return bytes(self._cursor.data[start:end]).decode(errors="replace")
        if self.element_type == "array":
            return GGUFArray(self._cursor.at(int(self._elements[i])), self._depth + 1)
        return self._elements[i].item()

    def __iter__(self) -> Iterator[Any]:
        if self.element_type == "string":
            return (raw.decode(errors="replace") for raw in self.strings())
        if self.element_type == "array":
            return (self[i] for i in range(len(self)))
        return iter(self._elements.tolist())

    def __repr__(self) -> str:
        return f"<GGUFArray of {len(self)} × {self.element_type}>"

    def numpy(self) -> np.ndarray:
        """The numbers, as a read-only view of the file. Raises GGUFError for an array of anything else."""
        if self.element_type in ("string", "array"):
            raise self._cursor.fail(f"an array of numbers is needed here, not of {self.element_type}s")
        return self._elements

    def strings(self) -> list[bytes]:
        """All strings, as the bytes in the file. Raises GGUFError for an array of anything else."""
        if self.element_type != "string":
            raise self._cursor.fail(f"an array of strings is needed here, not of {self.element_type}")
        first, last = int(self._elements[0]), int(self._elements[-1])
        block = bytes(self._cursor.data[first:last])  # quicker to slice than the map
        offsets = (self._elements - first).tolist()
        return [block[start + 8 : end] for start, end in zip(offsets, offsets[1:], strict=False)]


#: What a key may have.
Value = int | float | str | GGUFArray


def read_value(cursor: ByteCursor, key: str) -> Value:
    """The value of a key, preceded by its type, at the cursor. Raises GGUFError."""
    start = cursor.position
    number = cursor.u32()
    if number in _SCALARS:
        return cursor.scalar(_SCALARS[number][1])  # type: ignore[no-any-return]
    if number == _STRING:
        # what the tokenizer is given must be exact; names, authors and paths are only shown
        return cursor.string(errors="strict" if key.startswith("tokenizer.") else "replace")
    if number == _ARRAY:
        return GGUFArray(cursor)
    raise cursor.fail(f"unknown type {number} of a value", start)


def _skip_arrays(cursor: ByteCursor, count: int, depth: int) -> np.ndarray:
    """Move behind `count` arrays; i64[count + 1]: where each starts, and where the last ends."""
    cursor.need(count, 12)
    offsets = np.empty(count + 1, np.int64)
    for i in range(count):
        offsets[i] = cursor.position
        GGUFArray(cursor, depth)
    offsets[count] = cursor.position
    return offsets


def _skip_strings(cursor: ByteCursor, count: int) -> np.ndarray:
    """Move behind `count` strings; i64[count + 1]: where each starts, and where the last ends.

    A vocabulary has hundreds of thousands, so NumPy finds them a window at a time; only what it cannot take
    (strings of 256 bytes or more, text that looks like a length) is walked in Python.
    """
    cursor.need(count, 8)
    offsets = np.empty(count + 1, np.int64)
    found = 0
    offsets[0] = cursor.position
    while found < count:
        window_end = cursor.position + _WINDOW
        ends = _ends_of_short_strings(cursor)[: count - found]
        offsets[found + 1 : found + 1 + len(ends)] = ends
        found += len(ends)
        cursor.position = int(offsets[found])
        while found < count and cursor.position < window_end:
            cursor.need(length := cursor.u64())
            cursor.position += length
            found += 1
            offsets[found] = cursor.position
    return offsets


def _ends_of_short_strings(cursor: ByteCursor) -> np.ndarray:
    """Where the strings end that follow one another from the cursor, within a window, each below 256 bytes.

    A length below 256 shows as seven zero bytes after a first one. The places that look so are strings if
    each is where the one before it ends.
    """
    left = cursor.size - cursor.position
    width = min(_WINDOW, left - 7)
    if width <= 0:
        return np.empty(0, np.int64)
    words = np.ndarray((width,), "<u8", cursor.data, cursor.position, (1,))
    starts = np.flatnonzero(words < 256)
    ends = starts + 8 + words[starts].astype(np.int64)
    expected = np.zeros_like(starts)
    expected[1:] = ends[:-1]
    good = (starts == expected) & (ends <= left)
    return cursor.position + (ends if good.all() else ends[: int(good.argmin())])

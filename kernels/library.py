"""Kernels as machine code: from the cache on disk into executable memory, compiled first where needed."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from . import isa as isa_module
from .compilers import CompileError, Compilers
from .kernel_cache import Cache, read
from .layout import LINE
from .memory import Executable, address

#: A kernel's argument that is read, at each run, from the address given when it was bound.
Ref = Annotated[int, "ref"]


class BoundKernel(NamedTuple):
    """A kernel bound to its arguments: int64[n] of their values or addresses, and what keeps these alive."""

    kernel: Kernel
    record: np.ndarray
    held: tuple[Any, ...]


class Kernel:
    """A compiled kernel: its address, in executable memory that it keeps, and the names of its arguments."""

    def __init__(self, name: str, memory: Executable, offset: int, arguments: Sequence[str]) -> None:
        self.name, self.address, self.arguments = name, memory.address + offset, tuple(arguments)
        self._memory = memory
        self._function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(self.address)

    def bind(self, **values: Any) -> BoundKernel:
        """Bind the kernel to arguments; arrays stand for the addresses of their data.

        Raises TypeError where the names are not exactly the kernel's.
        """
        if values.keys() != set(self.arguments):
            wrong = sorted(values.keys() ^ set(self.arguments))
            raise TypeError(f"kernel {self.name}: missing or unknown arguments: {', '.join(wrong)}")
        record = np.array([_slot(values[name]) for name in self.arguments], np.int64)
        return BoundKernel(self, record, tuple(values.values()))

    def __call__(self, **values: Any) -> None:
        """Run the kernel once, on this thread alone."""
        call, counter = self.bind(**values), np.zeros(8, np.int64)
        self.run(address(call.record), 0, 1, address(counter))

    def run(self, record: int, thread: int, n_threads: int, counter: int) -> None:
        self._function(record, thread, n_threads, counter)


def aligned(n_bytes: int) -> np.ndarray:
    """Zeroed memory, u8[n_bytes], that begins at a cache line: vectors in it never lie across two."""
    memory = np.zeros(n_bytes + LINE, np.uint8)
    start = -address(memory) % LINE
    return memory[start : start + n_bytes]


def _slot(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return address(value)
    if isinstance(value, float):
        return struct.unpack("<q", struct.pack("<d", value))[0]
    return int(value)


class Library:
    """All kernels that a process uses, for one instruction set."""

    def __init__(self, isa: isa_module.Isa | None = None) -> None:
        self.isa = isa or isa_module.detect()
        self._cache = Cache(self.isa)
        self._compiler = Compilers(self.isa)
        self._kernels: dict[str, Kernel] = {}

    def get(self, name: str) -> Kernel:
        """One kernel by its name; see compiler.py for how they are named."""
        self.load([name])
        return self._kernels[name]

    def has(self, names: Iterable[str]) -> bool:
        """Whether all of these are loaded."""
        return self._kernels.keys() >= set(names)

    def load(self, names: Iterable[str], *, quiet: bool = False) -> None:
        """Make all of these available, compiling together those that the cache lacks.

        quiet: without telling on stderr, where an answer may be half written. Raises CompileError.
        """
        wanted = [name for name in dict.fromkeys(names) if name not in self._kernels]
        images = {name: self._cache.read(name) for name in wanted}
        if missing := [name for name, image in images.items() if image is None]:
            with self._cache.writable() as folder:
                self._compiler.run(folder, missing, quiet, scratch=folder != self._cache.folder)
                images |= {name: read(folder, name) for name in missing}
        for name, image in images.items():
            if image is None:
                raise CompileError(f"kernel {name} was compiled, but its file cannot be read back")
            self._kernels[name] = Kernel(name, Executable(image.code), image.entry, image.arguments)

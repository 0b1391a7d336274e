"""Kernels as machine code: from the cache on disk into executable memory, compiled first where needed.

The cache lies in a folder per user, one folder in it for each combination of instruction set, versions
and kernel source, one file per kernel. Files are written under a temporary name and renamed, so processes
that start together do not disturb each other; a damaged file is compiled again, and a folder that cannot
be written is replaced by a temporary one: only slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from . import isa as isa_module
from .layout import LINE

#: A kernel's argument that is read, at each run, from the address given when it was bound.
Ref = Annotated[int, "ref"]

_MAGIC = b"ggrun-kernel-1\n"


class Call(NamedTuple):
    """A kernel bound to its arguments: int64[n] of their values or addresses, and what keeps these alive."""

    kernel: Kernel
    record: np.ndarray
    held: tuple[Any, ...]


class Kernel:
    """A compiled kernel: its address, in executable memory that it keeps, and the names of its arguments."""

    def __init__(self, name: str, memory: _executable, offset: int, arguments: Sequence[str]) -> None:
        self.name, self.address, self.arguments = name, memory.address + offset, tuple(arguments)
        self._memory = memory
        self._function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(self.address)

    def bind(self, **values: Any) -> Call:
        """Bind the kernel to arguments; arrays stand for the addresses of their data.

        Raises TypeError where the names are not exactly the kernel's.
        """
        if values.keys() != set(self.arguments):
            wrong = sorted(values.keys() ^ set(self.arguments))
            raise TypeError(f"kernel {self.name}: missing or unknown arguments: {', '.join(wrong)}")
        record = np.array([_slot(values[name]) for name in self.arguments], np.int64)
        return Call(self, record, tuple(values.values()))

    def __call__(self, **values: Any) -> None:
        """Run the kernel once, on this thread alone."""
        call, counter = self.bind(**values), np.zeros(8, np.int64)
        self.run(address(call.record), 0, 1, address(counter))

    def run(self, record: int, thread: int, n_threads: int, counter: int) -> None:
        self._function(record, thread, n_threads, counter)


def address(array: np.ndarray) -> int:
    """Where an array's data begin; much quicker than `array.ctypes.data`."""
    return array.__array_interface__["data"][0]


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
        self._kernels: dict[str, Kernel] = {}

    def get(self, name: str) -> Kernel:
        """One kernel by its name; see compiler.py for how they are named."""
        self.load([name])
        return self._kernels[name]

    def load(self, names: Iterable[str]) -> None:
        """Make all of these available, compiling together those that the cache lacks."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._kernels]
        if not wanted:
            return
        folder = _cache_folder(self.isa)
        images = {name: _read_image(folder, name) for name in wanted}
        missing = [name for name, image in images.items() if image is None]
        if missing:
            with _writable(folder) as target:
                _compile(target, missing, self.isa, scratch=target != folder)
                images |= {name: _read_image(target, name) for name in missing}
        for name, image in images.items():
            if image is None:
                raise RuntimeError(f"kernel {name}: the compiled file could not be read back")
            arguments, offset, code = image
            self._kernels[name] = Kernel(name, _executable(code), offset, arguments)


# --- the cache on disk ---------------------------------------------------------------------------


def _source_key() -> str:
    """A hash of every kernel's source, and of the versions that compile it."""
    digest = hashlib.sha256(f"{sys.platform} {sys.version_info[:2]} {_versions()}".encode())
    root = Path(__file__).parent
    for path in sorted(path for folder in (".", "simd", "formats", "cpu") for path in (root / folder).glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _versions() -> str:
    """Numba's and llvmlite's versions, read off the names of their installed folders: importing costs 0.3 s."""
    found = []
    for entry in sys.path:
        try:
            names = os.listdir(entry or ".")
        except OSError:
            continue
        found += [n for n in names if n.endswith(".dist-info") and n.startswith(("numba-", "llvmlite-"))]
    return " ".join(sorted(found))


def cache_root() -> Path:
    """Where this user keeps what can be made again; it may have to be made."""
    if root := os.environ.get("GGRUN_CACHE"):
        return Path(root)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "ggrun" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/ggrun"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ggrun"


def _cache_folder(isa: isa_module.Isa) -> Path:
    return cache_root() / "kernels" / f"{isa.name}-{_source_key()}"


class _writable:
    """The cache folder, or a temporary one in its place where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                return self.folder
        except OSError:
            self.temporary = tempfile.TemporaryDirectory(prefix="ggrun-")
            return Path(self.temporary.name)

    def __exit__(self, *error: object) -> None:
        if self.temporary is not None:
            self.temporary.cleanup()


def _file(folder: Path, name: str) -> Path:
    return folder / (name.replace(":", "-") + ".bin")


def write_image(folder: Path, name: str, arguments: list[str], code: bytes, offset: int) -> None:
    """Put a compiled kernel into the cache, whole or not at all."""
    header = json.dumps({"arguments": arguments, "offset": offset, "crc": zlib.crc32(code)}).encode()
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(_MAGIC + struct.pack("<I", len(header)) + header + code)
    os.replace(file.name, _file(folder, name))


def _read_image(folder: Path, name: str) -> tuple[list[str], int, bytes] | None:
    """(argument names, offset of the entry, code), or None where the file is missing or damaged."""
    try:
        raw = _file(folder, name).read_bytes()
        start = len(_MAGIC) + 4
        end = start + struct.unpack_from("<I", raw, len(_MAGIC))[0]
        header, code = json.loads(raw[start:end]), raw[end:]
        if not raw.startswith(_MAGIC) or header["crc"] != zlib.crc32(code):
            return None
        return header["arguments"], header["offset"], code
    except (OSError, ValueError, KeyError, struct.error):
        return None


def _compile(folder: Path, names: list[str], isa: isa_module.Isa, *, scratch: bool) -> None:
    """Compile kernels in as many processes as there are processors, with a line of progress on a terminal.

    They end when this process does, however that is, and then remove a folder that is only for `scratch`.
    """
    n = min(len(names), os.cpu_count() or 1, 8)
    # -P: a file named numba.py where the user happens to stand is none of our business
    command = [sys.executable, "-P", "-m", f"{__package__}.compiler", "scratch" if scratch else "keep", str(folder)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = os.environ | {"GGRUN_ISA": isa.name, "NUMBA_OPT": "0", "PYTHONPATH": path}
    # kernels of one type of weights share functions, which a process compiles once
    alike = sorted(names, key=lambda name: name.partition(":")[2])
    shares = [alike[len(alike) * i // n : len(alike) * (i + 1) // n] for i in range(n)]
    workers = [
        subprocess.Popen(
            command + share, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for share in shares
    ]
    show = sys.stderr.isatty()
    try:
        done = 0
        for worker in workers:
            assert worker.stdout is not None
            for _ in worker.stdout:
                done += 1
                if show:
                    print(f"\rcompiling kernels for this CPU, once: {done}/{len(names)} ", end="", file=sys.stderr)
                    sys.stderr.flush()
        errors = [worker.communicate()[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        if show:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    for worker, error in zip(workers, errors, strict=True):
        if worker.returncode > 0:
            raise RuntimeError(f"compiling kernels failed: …{error.decode(errors='replace')[-1500:]}")


# --- executable memory ---------------------------------------------------------------------------


class _executable:
    """Code copied to pages that are then made read-only and executable."""

    def __init__(self, code: bytes) -> None:
        size = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
        if sys.platform == "win32":
            kernel32 = ctypes.WinDLL("kernel32")
            kernel32.VirtualAlloc.restype = ctypes.c_void_p
            kernel32.VirtualAlloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32]
            kernel32.VirtualProtect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_void_p]
            self.address: int = kernel32.VirtualAlloc(None, size, 0x3000, 0x04)
            ctypes.memmove(self.address, code, len(code))
            kernel32.VirtualProtect(self.address, size, 0x20, ctypes.byref(ctypes.c_uint32()))
            return
        self.pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.pages.write(code)
        self.address = address(np.frombuffer(self.pages, np.uint8))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if libc.mprotect(self.address, size, mmap.PROT_READ | mmap.PROT_EXEC):
            raise OSError(ctypes.get_errno(), "this system does not let ggrun run compiled code (mprotect)")

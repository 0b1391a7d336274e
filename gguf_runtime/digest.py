"""A digest of all bytes of a model's files, which is computed once and remembered for as long as they stay as they are.

It takes about a second for each gigabyte, less with more cores, and much less than that to read the files from a disk.
What is remembered belongs to a file by its path, size, inode, and the times of the last change of its bytes and of
its status, of which no program can set the second on POSIX systems.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

from .files import replacing
from .kernels.kernel_cache import cache_root
from .loader import GGUFFile
from .loader.file import Part

_CHUNK = 1 << 24
_THREADS = 8
_UNSETTLED = 3.0  # seconds after a change in which another one may leave a file's times as they are


def content_digest(file: GGUFFile) -> str:
    """What no file of other content has, in hexadecimal digits."""
    return hashlib.sha256(" ".join(map(_part_digest, file.parts)).encode()).hexdigest()


def _part_digest(part: Part) -> str:
    identity = _identity(part.status)
    path = os.path.realpath(part.path)
    note = cache_root() / "digests" / hashlib.sha256(os.fsencode(path)).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        seen = json.loads(note.read_text("utf-8"))
        if seen["identity"] == identity:
            return str(seen["digest"])
    digest = _digest(memoryview(part.data))
    with contextlib.suppress(OSError):
        if _identity(os.stat(path)) == identity and _is_settled(part.status):
            note.parent.mkdir(parents=True, exist_ok=True)
            with replacing(note) as target:
                target.write(json.dumps({"identity": identity, "digest": digest}).encode())
    return digest


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _is_settled(status: os.stat_result) -> bool:
    return time.time() - max(status.st_mtime, status.st_ctime) > _UNSETTLED


def _digest(data: memoryview) -> str:
    """The SHA-256 of the SHA-256 of each chunk, so that several threads can share the work."""

    def of_chunk(start: int) -> bytes:
        with data[start : start + _CHUNK] as chunk:
            return hashlib.sha256(chunk).digest()

    executor = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        return hashlib.sha256(b"".join(executor.map(of_chunk, range(0, len(data), _CHUNK)))).hexdigest()
    finally:  # interrupted: leave it at the chunks that are under way
        executor.shutdown(cancel_futures=True)
        data.release()

"""How much memory this process can still have."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

#: Of a control group: its limit, what it uses, and what of that is files' pages, which give way. Version 2, then 1.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available() -> int:
    """Bytes of the system's memory that are free, or would be at once, within what the process is allowed."""
    if sys.platform == "win32":
        return _windows()
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
        return min(free, _within_cgroup())
    # macOS tells what is free only to its own tools: half of all is there as a rule
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _within_cgroup() -> int:
    """What the limits of the process's control groups leave, as of a container; where there is none, no limit."""
    left = sys.maxsize
    for folder in _cgroups():
        for limit, usage, cached in _CGROUP_FILES:
            with contextlib.suppress(OSError, ValueError):  # "max" is no number
                most, used = (int((folder / name).read_text()) for name in (limit, usage))
                statistics = (folder / "memory.stat").read_text().split()
                spare = int(statistics[statistics.index(cached) + 1]) if cached in statistics else 0
                left = min(left, max(0, most - used + spare))
    return left


def _cgroups() -> list[Path]:
    """The folders of the groups that limit memory: the process's own, and those in which it lies."""
    found = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                own = Path("/sys/fs/cgroup", controllers, path.lstrip("/"))
                found += [own, *(folder for folder in own.parents if "cgroup" in folder.parts)]
    return list(dict.fromkeys(found))


def _windows() -> int:
    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong), ("load", ctypes.c_ulong), ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong), ("rest", ctypes.c_ulonglong * 5),
        ]  # fmt: skip

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.available)

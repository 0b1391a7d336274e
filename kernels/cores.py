"""How many threads this process may use: the machine's cores, of which it may be given fewer."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def processors() -> int:
    """Hardware threads that this process may run on: more threads than these only wait for each other."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """Cores that this process may use: hardware threads of one core count once, and a container's limit is kept."""
    if sys.platform == "darwin":
        libc, n, size = ctypes.CDLL(None), ctypes.c_int(0), ctypes.c_size_t(4)
        for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
            if libc.sysctlbyname(name, ctypes.byref(n), ctypes.byref(size), None, 0) == 0 and n.value > 0:
                return n.value
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1) // (2 if sys.platform == "win32" else 1))
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
                cores.add(file.read())
        except OSError:
            cores.add(str(cpu))
    quota = cpu_quota()
    return max(1, min(len(cores), -int(-quota // 1) if quota else len(cores)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that Linux grants this process's control groups, the least of all; None: no limit.

    A limit may lie on the group itself or on any above it, as far up as this process can see. root: where proc is.
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's groups, and of those above them, in each hierarchy that may limit processors."""
    try:
        own, mounts = ((root / "proc/self" / name).read_text().splitlines() for name in ("cgroup", "mountinfo"))
    except OSError:
        return
    paths = {}  # of this process's group in each hierarchy: that of version 2 has no controllers' names
    for line in own:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller is None or controller not in paths or (controller and controller not in options.split(",")):
            continue
        mounted, place = (_unescaped(field) for field in before.split(" ")[3:5])
        top, group = root / place.lstrip("/"), PurePosixPath(paths[controller])
        inside = group.relative_to(mounted) if group.is_relative_to(mounted) else PurePosixPath()
        folder = top.joinpath(*(part for part in inside.parts if part != ".."))
        yield from (above for above in (folder, *folder.parents) if above.is_relative_to(top))


def _quota(group: Path) -> float | None:
    """What a group's own files say, of version 2 or of version 1."""
    try:
        if (file := group / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        processors = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # none, or "max"
        return None
    return processors if processors > 0 else None


def _unescaped(field: str) -> str:
    """mountinfo writes blanks as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)

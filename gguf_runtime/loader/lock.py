"""Weights that stay in memory: the system is asked not to take their pages away."""

from __future__ import annotations

import ctypes
import sys

import numpy as np

from .file import GGUFFile


def lock(file: GGUFFile) -> bool:
    """Keep a file's bytes in memory; False where the system, or a limit of it, does not let us."""
    arrays = [np.frombuffer(part.data, np.uint8) for part in file.parts]
    return all([_lock(data.ctypes.data, data.nbytes) for data in arrays])


def _lock(address: int, n_bytes: int) -> bool:
    if sys.platform == "win32":
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.VirtualLock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        return bool(kernel32.VirtualLock(address, n_bytes))
    mlock = ctypes.CDLL(None).mlock
    mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return int(mlock(address, n_bytes)) == 0

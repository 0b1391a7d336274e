"""Memory for machine code."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np


def address(array: np.ndarray) -> int:
    """Where an array's data begin; much quicker than `array.ctypes.data`."""
    return array.__array_interface__["data"][0]


class Executable:
    """Code copied to pages that are then made read-only and executable. Raises OSError where the system forbids it."""

    def __init__(self, code: bytes) -> None:
        size = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
        if sys.platform == "win32":
            kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
            kernel32.VirtualAlloc.restype = ctypes.c_void_p
            kernel32.VirtualAlloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32]
            kernel32.VirtualProtect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_void_p]
            self.address: int = kernel32.VirtualAlloc(None, size, 0x3000, 0x04)
            if not self.address:
                raise _refused(ctypes.get_last_error(), "VirtualAlloc")
            ctypes.memmove(self.address, code, len(code))
            if not kernel32.VirtualProtect(self.address, size, 0x20, ctypes.byref(ctypes.c_uint32())):
                raise _refused(ctypes.get_last_error(), "VirtualProtect")
            return
        self.pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.pages.write(code)
        self.address = address(np.frombuffer(self.pages, np.uint8))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if libc.mprotect(self.address, size, mmap.PROT_READ | mmap.PROT_EXEC):
            raise _refused(ctypes.get_errno(), "mprotect")


def _refused(code: int, call: str) -> OSError:
    return OSError(code, f"this system does not let ggrun run compiled code ({call})")

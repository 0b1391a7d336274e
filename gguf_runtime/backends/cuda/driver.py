"""A launch that CuPy has no call for: of a kernel that may begin while the one before it still runs."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np

from ..errors import GpuError

_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_int * 15)]


class _Config(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("n_attributes", ctypes.c_uint),
    ]


@cache
def _library() -> Any:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")  # one calling convention in 64 bits


def can_overlap() -> bool:
    """Whether the driver has the call (CUDA 11.8)."""
    return hasattr(_library(), "cuLaunchKernelEx")


def launch_overlapping(
    function: int, grid: tuple[int, ...], block: int, args: tuple[Any, ...], shared: int, stream: int
) -> None:
    """Launch a kernel that waits for the one before by itself (griddepcontrol.wait, from compute capability 9.0 on).

    function: CUfunction; args as for CudaDevice.kernel. Raises GpuError with the driver's error code.
    """
    attribute = _Attribute(_PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1)
    whole = (*grid, 1, 1)[:3]
    config = _Config(whole, (block, 1, 1), shared, stream, ctypes.pointer(attribute), 1)
    values = [ctypes.c_float(float(x)) if isinstance(x, np.float32) else ctypes.c_longlong(x) for x in args]
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    if code := _library().cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(function), pointers, None):
        raise GpuError(f"the GPU's driver refuses to launch a kernel: CUDA error {code}")

"""Finding GPUs: quickly whether there may be one, and then, with CuPy, those that work."""

from __future__ import annotations

import ctypes
import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .errors import GpuError

if TYPE_CHECKING:
    from . import Device
    from .cuda.device import CudaDevice

_LEAST = 70  # compute capability 7.0


def gpu_present() -> bool:
    """Whether NVIDIA's driver and CuPy are there: costs next to nothing where they are not."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return find_spec("cupy") is not None


def open_gpus(only: int | None = None) -> list[CudaDevice]:
    """All GPUs that can run layers, or one of them by its number. Raises GpuError where there is none."""
    if find_spec("cupy") is None:
        raise GpuError("layers on a GPU need CuPy (pip install 'ggrun[cuda]')")
    try:
        import cupy

        n = cupy.cuda.runtime.getDeviceCount()
        if only is not None and not 0 <= only < n:
            raise GpuError(f"there is no GPU {only}: they are numbered 0 to {n - 1}")
        numbers = range(n) if only is None else [only]
        usable = [i for i in numbers if int(cupy.cuda.Device(i).compute_capability) >= _LEAST]
        if not usable:
            raise GpuError(f"no GPU of compute capability {_LEAST / 10} or more")
    except GpuError:
        raise
    except Exception as error:  # whatever a driver that does not fit makes CuPy raise
        raise GpuError(f"no GPU that CuPy can use ({_line(error)})") from error
    from .cuda.device import CudaDevice

    opened = []
    for i in usable:
        try:
            opened.append(CudaDevice(i))
        except Exception as error:  # one that another process keeps to itself, or whose memory is full
            if i == usable[-1] and not opened:
                raise GpuError(f"GPU {i} cannot be used now ({_line(error)})") from error
            warnings.warn(f"GPU {i} cannot be used now ({_line(error)})", RuntimeWarning, stacklevel=2)
    return opened


def gpu_devices(only: int | None = None) -> list[Device]:
    """The same, as devices for layers."""
    opened = open_gpus(only)
    from .cuda.gpu import Gpu

    return [Gpu(device) for device in opened]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())

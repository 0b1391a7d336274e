"""The CUDA backend: runs graphs on a GPU.

Its modules, from the bottom up: device, weights, inputs, fuse, launches, products and attention, plan, resident; bus,
mirror, sharing, streaming.
"""

from .backend import CudaBackend
from .bus import Bus, room_for
from .device import CudaDevice
from .gpu import Gpu
from .launches import Workspace, workspace_bytes
from .streaming import StreamingBackend, streaming_bytes
from .weights import device_bytes

__all__ = [
    "Bus", "CudaBackend", "CudaDevice", "Gpu", "StreamingBackend", "Workspace", "device_bytes", "room_for",
    "streaming_bytes", "workspace_bytes",
]  # fmt: skip

"""A GPU: its memory, its stream, its compiled kernels, cuBLAS. This and what imports it need CuPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from ...kernels.cuda.source import OPTIONS, source
from .driver import can_overlap, launch_overlapping

#: Launches a kernel, or a product of cuBLAS, for a number of tokens.
Launch = Callable[[int], Any]

_F16, _F32, _COMPUTE_F32 = 2, 0, 68  # cudaDataType, cublasComputeType


class Memory(NamedTuple):
    """Some memory of the GPU, or of the system where the GPU reaches it; `owner` keeps it."""

    address: int
    n_bytes: int
    owner: Any


class CudaDevice:
    """One GPU. Everything on it happens in the order of one stream."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.handle = cupy.cuda.Device(number)
        self.name = f"CUDA{number}"
        self._kernels: dict[tuple[str, int], Any] = {}
        with self.handle:
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self._blas = cublas.create()
            self.n_processors = cupy.cuda.runtime.deviceGetAttribute(16, number)
            self.max_shared = cupy.cuda.runtime.deviceGetAttribute(97, number)  # bytes, of a block that asks for them
            self.shared_of_processor = cupy.cuda.runtime.deviceGetAttribute(81, number)
            # whether a kernel may begin before the one before it has ended
            self.overlaps = cupy.cuda.runtime.deviceGetAttribute(75, number) >= 9 and can_overlap()
        self._one, self._zero = np.ones(1, np.float32), np.zeros(1, np.float32)

    @property
    def free(self) -> int:
        """Bytes of its memory that nobody has."""
        return self.handle.mem_info[0]

    @property
    def description(self) -> str:
        """What it is, and how much memory it has."""
        properties = cupy.cuda.runtime.getDeviceProperties(self.number)
        major, minor = properties["major"], properties["minor"]
        return f"{properties['name'].decode()}, compute capability {major}.{minor}"

    def allocate(self, n_bytes: int) -> Memory:
        """Zeroed memory. Raises MemoryError where the GPU has too little."""
        try:
            with self.handle:
                owner = cupy.cuda.Memory(max(n_bytes, 1))  # straight from the driver: no pool keeps it after
                cupy.cuda.runtime.memsetAsync(owner.ptr, 0, max(n_bytes, 1), self.stream.ptr)
                self.stream.synchronize()
        except (cupy.cuda.memory.OutOfMemoryError, cupy.cuda.runtime.CUDARuntimeError) as error:
            raise MemoryError(
                f"{self.name} has too little memory: {n_bytes >> 20} MiB asked for, {self.free >> 20} MiB free"
            ) from error
        return Memory(owner.ptr, n_bytes, owner)

    def pinned(self, n_bytes: int) -> np.ndarray:
        """u8[n_bytes] of the system's memory that the GPU reads and writes by itself."""
        with self.handle:
            return np.frombuffer(cupy.cuda.alloc_pinned_memory(max(n_bytes, 1)), np.uint8, n_bytes)

    def copy(self, to: int, source: int, n_bytes: int) -> None:
        """Copy bytes between addresses of any memory, in the stream's order."""
        cupy.cuda.runtime.memcpyAsync(to, source, n_bytes, cupy.cuda.runtime.memcpyDefault, self.stream.ptr)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def kernel(self, name: str, shared: int = 0, *, overlaps: bool = False) -> Callable[..., None]:
        """kernel(grid, block, args) launches the kernel of this name (source.FILES) in the stream.

        args: ints for pointers and whole numbers, np.float32 for floats. shared: bytes of dynamic shared memory.
        overlaps: it waits for the kernel before by itself, and may begin before that has ended, where the GPU can.
        """
        if (name, shared) not in self._kernels:
            with self.handle:
                names = [name] if "<" in name else None
                raw = cupy.RawModule(code=source(name), options=OPTIONS, name_expressions=names).get_function(name)
                if shared > 32 << 10:  # with what a kernel has of its own, it may be beyond the usual 48 KiB
                    raw.max_dynamic_shared_size_bytes = max(shared, raw.max_dynamic_shared_size_bytes)
                if overlaps:  # kernels that are to be on a processor together must divide its memory alike
                    raw.preferred_shared_memory_carveout = 100
                self._kernels[name, shared] = raw.kernel
        function, stream = self._kernels[name, shared], self.stream

        def launch(grid: tuple[int, ...], block: int, args: tuple[Any, ...]) -> None:
            if overlaps and self.overlaps:
                launch_overlapping(function.ptr, grid, block, args, shared, stream.ptr)
            else:
                function(grid, (block,), args, shared, stream)

        return launch

    def multiply(
        self, weights: int, n_rows: int, x: int, n_columns: int, n: int, out: int, out_stride: int, add: bool
    ) -> None:
        """out[token][row] = Σ weights[row][column]·x[token][column] (+ out), by cuBLAS on tensor cores.

        weights, x: halves, rows of n_columns; out: f32, rows at out_stride. All are addresses.
        """
        one, beta = self._one.ctypes.data, (self._one if add else self._zero).ctypes.data
        cublas.gemmEx(
            self._blas, cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, n_rows, n, n_columns, one, weights, _F16, n_columns,
            x, _F16, n_columns, beta, out, _F32, out_stride, _COMPUTE_F32, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        """What these launches do, as one graph that the GPU runs by itself: gives what launches it."""
        self.stream.begin_capture()
        try:
            launches()
        finally:
            graph = self.stream.end_capture()
        return lambda: graph.launch(self.stream)

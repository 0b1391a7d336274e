"""A GPU: its memory, its streams, its compiled kernels, cuBLAS. This and what imports it need CuPy."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from ...kernels.cuda.source import options, source
from .. import PassResult
from ..errors import GpuError, GpuMemoryError
from .driver import can_overlap, launch_overlapping
from .launches import GpuMemory, Launch, Multiply, Work

_F16, _F32, _COMPUTE_F32 = 2, 0, 68  # cudaDataType, cublasComputeType
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY
_READ_ONLY = 8  # cudaHostRegisterReadOnly
_SYSTEM_PAGE = mmap.PAGESIZE
_FAILURES = cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError, cublas.CUBLASError


class CudaDevice:
    """One GPU. Work on it happens in the order of one stream; `bus` is another, for copies in its background."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.handle = cupy.cuda.Device(number)
        self.name = f"CUDA{number}"
        self._kernels: dict[tuple[str, int], Any] = {}
        self._lock = threading.RLock()
        self._fetched: list[tuple[Any, np.ndarray]] = []  # it stays until it is there, also if nobody waits for it
        with self.handle:
            self.stream, self.bus = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
            self._blas = cublas.create()
            self.n_processors = cupy.cuda.runtime.deviceGetAttribute(16, number)
            self._reads_registered = bool(cupy.cuda.runtime.deviceGetAttribute(91, number))  # by the same addresses
            self.max_shared = cupy.cuda.runtime.deviceGetAttribute(97, number)  # bytes, of a block that asks for them
            self.shared_of_processor = cupy.cuda.runtime.deviceGetAttribute(81, number)
            # whether a kernel may begin before the one before it has ended
            self.overlaps = cupy.cuda.runtime.deviceGetAttribute(75, number) >= 9 and can_overlap()
        self._one, self._zero = np.ones(1, np.float32), np.zeros(1, np.float32)

    @property
    def free(self) -> int:
        """Bytes of its memory that nobody has."""
        with self.working():
            return self.handle.mem_info[0]

    @cached_property
    def has_wgmma(self) -> bool:
        """Whether it, and the compiler, have the tensor cores' instructions of Hopper (prefill_matmul.cu)."""
        if self.handle.compute_capability != "90":
            return False
        try:
            self._kernel("arrange<Q8_0>", 0, overlaps=False)
        except cupy.cuda.compiler.CompileException:
            return False
        return True

    @property
    def description(self) -> str:
        """What it is, and how much memory it has."""
        properties = cupy.cuda.runtime.getDeviceProperties(self.number)
        major, minor = properties["major"], properties["minor"]
        return f"{properties['name'].decode()}, compute capability {major}.{minor}"

    @contextmanager
    def working(self) -> Iterator[None]:
        """While this is open, what CuPy does is done on this GPU, in its stream, and nobody else gives it work.

        Raises GpuMemoryError where its memory ran out, GpuError where it failed in another way.
        """
        with self._lock, self.handle, self.stream, self._telling():  # the current stream is the one of cuBLAS too
            yield

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Failures of CUDA as errors of ours."""
        try:
            yield
        except _FAILURES as error:
            if getattr(error, "status", 0) == _OUT_OF_MEMORY and not isinstance(error, cublas.CUBLASError):
                raise GpuMemoryError(f"{self.name} has too little memory left for its work") from error
            raise GpuError(f"{self.name} failed or is not to be had: {error}") from error
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise GpuMemoryError(f"{self.name} has too little memory left for its work") from error

    def allocate(self, n_bytes: int) -> GpuMemory:
        """Zeroed memory. Raises GpuMemoryError where the GPU has too little."""
        try:
            with self.working():
                owner = cupy.cuda.Memory(max(n_bytes, 1))  # straight from the driver: no pool keeps it after
                cupy.cuda.runtime.memsetAsync(owner.ptr, 0, max(n_bytes, 1), self.stream.ptr)
                self.stream.synchronize()
        except GpuMemoryError as error:
            raise GpuMemoryError(
                f"{self.name} has too little memory: {n_bytes >> 20} MiB asked for, {self.free >> 20} MiB free"
            ) from error
        return GpuMemory(owner.ptr, n_bytes, owner)

    def upload(self, values: np.ndarray) -> GpuMemory:
        """Memory that holds these numbers."""
        memory, values = self.allocate(values.nbytes), np.ascontiguousarray(values)
        with self.working():
            self.send(memory.address, values)
            self.synchronize()
        return memory

    def pinned(self, n_bytes: int) -> np.ndarray:
        """u8[n_bytes] of the system's memory that the GPU reads and writes by itself."""
        with self.working():
            return np.frombuffer(cupy.cuda.alloc_pinned_memory(max(n_bytes, 1)), np.uint8, n_bytes)

    def pinned_zeros(self, n_bytes: int) -> tuple[Any, int]:
        """Zeroed memory of the same kind, as who keeps it and its address: for a cache, read where nothing is yet.

        In huge pages, which NumPy asks for, it is there in a third of the time that CUDA's own takes. It has its pages
        for itself: what lies in a page that is pinned, and in one that is not, cannot be copied.
        """
        if self._reads_registered:
            around = np.zeros(n_bytes + 2 * _SYSTEM_PAGE, np.uint8)
            start = -around.ctypes.data % _SYSTEM_PAGE
            memory = around[start : start + n_bytes + -n_bytes % _SYSTEM_PAGE]
            with self.working():
                pinned = Pinned([memory], read_only=False)
            if pinned:
                return pinned, memory.ctypes.data
        memory = self.pinned(n_bytes)
        memory[:] = 0
        return memory, memory.ctypes.data

    def pin(self, arrays: Sequence[np.ndarray]) -> Pinned:
        """Have the GPU copy from these arrays by itself, at the bus's full speed."""
        with self.working():
            return Pinned(arrays)

    def copy(self, to: int, source: int, n_bytes: int, stream: Any = None) -> None:
        """Copy bytes between addresses of any memory, in the stream's order or in that of another."""
        cupy.cuda.runtime.memcpyAsync(to, source, n_bytes, cupy.cuda.runtime.memcpyDefault, (stream or self.stream).ptr)

    def send(self, to: int, data: np.ndarray, stream: Any = None) -> None:
        """Copy an array to an address of the GPU. The array must stay until that is done."""
        try:
            self.copy(to, data.ctypes.data, data.nbytes, stream)
        except cupy.cuda.runtime.CUDARuntimeError:  # pinned in part, as another engine's weights may be: that cannot be
            whole = data.copy()  # it must be there until the call has read it
            self.copy(to, whole.ctypes.data, whole.nbytes, stream)

    def fetch(self, source: int, n_rows: int, width: int) -> PassResult:
        """What waits for f32[n_rows, width] at this address, and for all that was launched before."""
        result, done = self.pinned(4 * n_rows * width).view(np.float32).reshape(n_rows, width), self.event()
        self.copy(result.ctypes.data, source, result.nbytes)
        done.record(self.stream)
        self._fetched = [fetched for fetched in self._fetched if not fetched[0].done]
        self._fetched.append((done, result))

        def wait() -> np.ndarray:
            with self._telling():
                done.synchronize()
            return result

        return wait

    def event(self) -> Any:
        """Something to record in one stream, and to wait for in another."""
        with self.working():
            return cupy.cuda.Event(disable_timing=True)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def run(self, work: Sequence[Work]) -> None:
        """Launch all this, in its order, in the stream."""
        for item in work:
            if isinstance(item, Multiply):
                self._multiply(item)
                continue
            name, grid, block, arguments, shared, overlaps = item
            function = self._kernel(name, shared, overlaps)
            if overlaps and self.overlaps:
                launch_overlapping(function.ptr, grid, block, arguments, shared, self.stream.ptr)
            else:
                function(grid, (block,), arguments, shared, self.stream)

    def compile(self, launches: Sequence[Launch]) -> None:
        """Compile their kernels, where that has not been done."""
        for launch in launches:
            self._kernel(launch.kernel, launch.shared, launch.overlaps)

    def _kernel(self, name: str, shared: int, overlaps: bool) -> Any:
        if (name, shared) not in self._kernels:
            with self.working():
                names = [name] if "<" in name else None
                module = cupy.RawModule(code=source(name), options=options(name), name_expressions=names)
                raw = module.get_function(name)
                if shared > 32 << 10:  # with what a kernel has of its own, it may be beyond the usual 48 KiB
                    raw.max_dynamic_shared_size_bytes = max(shared, raw.max_dynamic_shared_size_bytes)
                if overlaps:  # kernels that are to be on a processor together must divide its memory alike
                    raw.preferred_shared_memory_carveout = 100
                self._kernels[name, shared] = raw.kernel
        return self._kernels[name, shared]

    def _multiply(self, it: Multiply) -> None:
        one, beta = self._one.ctypes.data, (self._one if it.add else self._zero).ctypes.data
        cublas.gemmEx(
            self._blas, cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, it.n_rows, it.n_tokens, it.n_columns, one, it.weights,
            _F16, it.n_columns, it.x, _F16, it.n_columns, beta, it.out, _F32, it.out_stride, _COMPUTE_F32,
            cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        """What these launches do, as one graph that the GPU runs by itself: gives what launches it."""
        self.stream.begin_capture()
        try:
            launches()
        finally:
            graph = self.stream.end_capture()
        return lambda: graph.launch(self.stream)


class Pinned:
    """Memory of the system that stays where it is, so that the GPU reads it by itself; until `close`.

    Where the system refuses, copies work all the same, at a part of the speed.
    """

    def __init__(self, arrays: Sequence[np.ndarray], read_only: bool = True) -> None:
        self._arrays = arrays  # who keeps them keeps a mapped file mapped
        self._starts: list[int] = []
        for start, end in _pages(arrays):
            try:
                cupy.cuda.runtime.hostRegister(start, end - start, _READ_ONLY if read_only else 0)
            except _FAILURES:
                continue
            self._starts.append(start)

    def __del__(self) -> None:  # before the memory goes, whose address something else may get
        self.close()

    def close(self) -> None:
        while self._starts:
            with suppress(*_FAILURES):  # as a process that ends may get
                cupy.cuda.runtime.hostUnregister(self._starts.pop())
        self._arrays = ()

    def __bool__(self) -> bool:
        """Whether the system agreed, to any of it."""
        return bool(self._starts)

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _pages(arrays: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Ranges of whole pages that the arrays lie in; those that touch are one."""
    ranges: list[tuple[int, int]] = []
    for start, n_bytes in sorted((array.ctypes.data, _extent(array)) for array in arrays):
        first, end = start // _SYSTEM_PAGE * _SYSTEM_PAGE, -(-(start + n_bytes) // _SYSTEM_PAGE) * _SYSTEM_PAGE
        if ranges and first <= ranges[-1][1]:
            ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
        else:
            ranges.append((first, end))
    return ranges


def _extent(array: np.ndarray) -> int:
    """Bytes from the first to the last of an array, also of some columns of a larger one."""
    return sum((n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)) + array.itemsize

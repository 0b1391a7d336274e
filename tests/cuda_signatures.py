"""A GPU that is only planned for: it gives addresses; and whether launches agree with the kernels' sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from gguf_runtime.backends.cuda.inputs import CudaInputs
from gguf_runtime.backends.cuda.launches import GpuMemory, Launch, Multiply, Sizes, Work
from gguf_runtime.backends.cuda.operations import write
from gguf_runtime.backends.cuda.plan import CudaPlan
from gguf_runtime.backends.cuda.recurrence import state_bytes
from gguf_runtime.backends.cuda.weights import Matrix, matrix_bytes, matrix_of
from gguf_runtime.backends.cuda.workspace import Workspace
from gguf_runtime.backends.pages import KvTypes, PageLayout
from gguf_runtime.backends.states import state_memory
from gguf_runtime.graph import Graph
from gguf_runtime.kernels.cuda.source import source
from gguf_runtime.loader import Tensor
from gguf_runtime.operations import Attention, BestKeys, EmbedNgrams, ExpertScale, Keep

LACKING = BestKeys | ExpertScale | EmbedNgrams | Keep  # what GPUs have no kernels for yet

_BIND = re.compile(r"__global__ void\s*(?:__launch_bounds__\([^{;]*?\)\s*)?(?:PAIRS\s*)?(\w+)\(([^{;]*?)\)\s*\{", re.S)


class PlannedGpu:
    """What plans ask of a GPU; an address names memory that nobody has."""

    n_processors, max_shared, shared_of_processor, overlaps = 132, 227 << 10, 228 << 10, True

    def __init__(self, has_wgmma: bool = True) -> None:
        self.has_wgmma, self._end = has_wgmma, 1 << 40
        self.taken: list[tuple[int, int]] = []

    def allocate(self, n_bytes: int) -> GpuMemory:
        at, self._end = self._end, self._end + -(-n_bytes // 4096) * 4096 + 4096
        self.taken.append((at, at + n_bytes))
        return GpuMemory(at, n_bytes, None)

    def upload(self, values: np.ndarray) -> GpuMemory:
        return self.allocate(values.nbytes)

    def pinned(self, n_bytes: int) -> np.ndarray:
        return np.zeros(n_bytes, np.uint8)

    def event(self) -> Any:
        return SimpleNamespace()

    def holds(self, address: int) -> bool:
        return any(start <= address < end for start, end in self.taken)


def planned(graph: Graph, gpu: PlannedGpu, n_tokens: int = 512, kv: str = "f16") -> CudaPlan:
    """A graph's plan for such a GPU."""

    def matrix(tensors: Sequence[Tensor]) -> Matrix:
        return matrix_of(tensors, gpu.allocate(matrix_bytes(tensors)))

    device: Any = gpu
    space = Workspace(device, [graph], n_tokens)
    states = state_memory(graph, state_bytes, "cuda f32")
    layout = states.layout if states else None
    pages = PageLayout(graph.kv, KvTypes(kv, kv))
    return CudaPlan(graph, space, pages, layout, CudaInputs(device, graph, space.n_rows, 4096), matrix)


SIZES = [Sizes(1, 1), Sizes(4, 4), Sizes(32, 32), Sizes(512, 1, 16, 2, False), Sizes(256, 0, 16, 1, False)]


def launches(plan: CudaPlan) -> list[Work]:
    """What is launched for batches of all kinds."""
    return [work for sizes in SIZES for work in write(plan, sizes)]


@cache
def _parameters(kernel: str) -> list[str]:
    """Of each of a kernel's parameters its kind: pointer, whole or float."""
    name = kernel.partition("<")[0]
    for found in _BIND.finditer(source(kernel)):
        if found[1] == name:
            return [
                "pointer" if "*" in text else "float" if text.split()[0] == "float" else "whole"
                for text in re.sub(r"\s+", " ", found[2]).split(",")
            ]
    raise AssertionError(f"no kernel {name}")


def check(work: Work, gpu: PlannedGpu) -> None:
    """Whether a launch has the arguments that its kernel takes, and its pointers point to memory."""
    if isinstance(work, Multiply):
        assert all(map(gpu.holds, (work.weights, work.x, work.out))), work
        return
    assert isinstance(work, Launch)
    kinds = _parameters(work.kernel)
    assert len(kinds) == len(work.arguments), (work, kinds)
    for kind, argument in zip(kinds, work.arguments, strict=True):
        assert isinstance(argument, np.float32 if kind == "float" else int), (work, kinds, argument)
        if kind == "pointer":
            assert not argument or gpu.holds(int(argument)), (work, argument)
    assert 0 < work.block <= 1024 and all(n > 0 for n in work.grid) and work.shared <= gpu.max_shared, work
    assert all(n < 65536 for n in work.grid[1:]), work


def is_lacking(graph: Graph) -> bool:
    """Whether GPUs have no kernel for something in a graph, and refuse it by name."""
    return any(
        isinstance(op, LACKING) or (isinstance(op, Attention) and (op.keys or op.source or op.summaries is not None))
        for op in graph.ops
    )

"""A GPU as a device: what layers take there, and backends for those that it has or helps with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from ...graph import Graph, join
from ...loader import Tensor
from .. import Backend, Device, Settings
from ..cpu import Cpu, CpuBackend
from ..errors import PlanError
from ..pages import PageMemory
from .backend import CudaBackend
from .bus import Bus, room_for
from .device import CudaDevice
from .streaming import StreamingBackend, streaming_bytes
from .weights import device_bytes
from .workspace import Workspace, workspace_bytes

_MARGIN = 384 << 20  # bytes for cuBLAS, kernels, and what the driver takes as it goes
_IN_TURNS = 512  # tokens of a pass where it hands over to another GPU: few, so that a prompt keeps both busy


class Gpu:
    """An NVIDIA GPU."""

    #: Many, so that a layer's weights are unpacked, or come over the bus, for more tokens.
    pass_sizes: tuple[int, ...] = (2048, 512)

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self.name, self.description = device.name, device.description

    def weight_bytes(self, tensor: Tensor) -> int:
        return device_bytes(tensor)

    def room(self, graphs: Sequence[Graph], n_tokens: int) -> int:
        return self._device.free - workspace_bytes(self._device, graphs, n_tokens) - _MARGIN

    def streaming_bytes(self, layers: Sequence[Graph], settings: Settings) -> int:
        return streaming_bytes(layers, settings.n_ctx, settings.kv)

    def compile(
        self,
        graphs: Sequence[Graph],
        settings: Settings,
        streamed: Sequence[Sequence[Graph]] = (),
        host: Device | None = None,
    ) -> list[Backend]:
        n_tokens, n_ctx, kv, in_ram, in_turns = settings
        space = Workspace(self._device, [*graphs, *(layer for run in streamed for layer in run)], n_tokens)
        n_here = min(n_tokens, _IN_TURNS) if in_turns else n_tokens
        here = [CudaBackend(graph, space, n_here, n_ctx, kv, cache_in_ram=in_ram) for graph in graphs]
        return [*here, *self._streaming(space, streamed, settings, cast(Cpu, host))] if streamed else [*here]

    def _streaming(
        self, space: Workspace, runs: Sequence[Sequence[Graph]], settings: Settings, host: Cpu
    ) -> list[StreamingBackend]:
        _, n_ctx, kv, *_ = settings
        bus = Bus(space, room_for([layer for run in runs for layer in run], n_ctx, kv))
        n_here = min(host.pass_sizes[0], settings.n_tokens)

        def stage(layers: Sequence[Graph]) -> StreamingBackend:
            def on_cpu(first: int, last: int, n_tokens: int, memory: PageMemory | None) -> CpuBackend:
                return CpuBackend(join(layers[first:last]), host, n_tokens, kv, memory)

            return StreamingBackend(layers, on_cpu, n_here, bus, n_ctx, kv)

        stages = list(map(stage, runs))
        for i, made in enumerate(stages):  # after all else, as they would run
            made.measure(stages[0] if i else None)
        for made, following in pairwise(stages):
            made.following = following.first
        return stages

    def compile_encoder(self, graph: Graph, settings: Settings, decoder: Backend) -> Backend:
        raise PlanError("an encoder with a decoder runs on the CPU only")

    def after_fork(self) -> None:
        raise PlanError("a GPU cannot be used in a child made by fork: load the model there")

    def close(self) -> None:
        """Nothing: its memory goes with the last who holds it."""

"""From a model to the pipeline's stages: which devices there are, what each block takes there, a backend for each run.

Nothing of the GPU's is imported unless layers may go to one.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

from ..architectures import Model
from ..backends import Backend
from ..backends.cpu import Cpu, CpuBackend
from ..backends.errors import GpuError, PlanError
from ..backends.gpus import gpu_present, open_gpus
from ..backends.pages import SLAB, PageLayout, PageMemory
from ..graph import Graph, join
from ..kernels.layout import PAGE
from . import layer_split
from .layer_split import CPU, Block, Offload, Split, SplitError

if TYPE_CHECKING:
    from ..backends.cuda.bus import Bus
    from ..backends.cuda.device import CudaDevice
    from ..backends.cuda.streaming import StreamingBackend
    from ..backends.cuda.workspace import Workspace

_MARGIN = 384 << 20  # bytes of a GPU for cuBLAS, kernels, and what the driver takes as it goes
_CPU_TOKENS = 512  # of a pass, if nothing else is asked for
_GPU_TOKENS = 2048, 512  # the same: many, so that a layer's weights are unpacked, or come over the bus, for more tokens
_IN_TURNS = 512  # the same where one GPU hands over to another: fewer, so that a prompt keeps all of them busy


class Settings(NamedTuple):
    """What every stage must know; Engine explains them."""

    n_ctx: int
    n_ubatch: int
    n_threads: int
    type_k: str
    type_v: str

    @property
    def cpu_tokens(self) -> int:
        """Tokens of a pass on the CPU."""
        return self.n_ubatch or _CPU_TOKENS

    @property
    def gpu_tokens(self) -> list[int]:
        """Tokens of a pass on a GPU, the largest number first."""
        sizes = [self.n_ubatch] if self.n_ubatch else [min(n, self.n_ctx) for n in _GPU_TOKENS]
        return list(dict.fromkeys(sizes))


class _Run(NamedTuple):
    """Blocks in a row that run alike: on a device, or in RAM and streamed to it.

    graphs: if streamed, of each layer what is among them; else one of all.
    """

    device: str
    streamed: bool
    graphs: list[Graph]


class Placement:
    """A model's blocks on their devices.

    stages: a backend for each run of blocks on one device. blocks: what each takes on a GPU; empty where none was
    considered. gpus: what these are. Raises SplitError, PlanError, and MemoryError where a GPU has less room than it
    said; unless layers are "auto": then fewer go there, or none, with a warning.
    """

    def __init__(self, model: Model, offload: Offload, settings: Settings) -> None:
        self._graphs, self._settings, self._offload = model.graph.blocks(), settings, offload
        self._layers = [graph.result.layer for graph in self._graphs]  # of each block; the last one is the output
        self.blocks: list[Block] = []
        self._streamed: list[StreamingBackend] = []
        self._split, self._gpu_tokens = self._all_on_cpu(), 0
        self._cpu: Cpu | None = None
        gpus = _gpus(offload)
        self.gpus = [gpu.description for gpu in gpus]
        try:
            if gpus:
                self.blocks = list(map(self._block, self._layers, self._graphs))
                self._split, self._gpu_tokens = self._choose(gpus, offload)
            self.stages = self._build(gpus)
        except (PlanError, GpuError) as error:
            if not gpus or offload.layers != "auto":
                raise
            warnings.warn(f"{error}: all layers run on the CPU", RuntimeWarning, stacklevel=2)
            self.blocks, self._split = [], self._all_on_cpu()
            self.stages = self._build([])

    @property
    def devices(self) -> list[str]:
        """The name of each block's device, the output being the last."""
        return self._split.devices

    @property
    def n_on_gpu(self) -> int:
        """How many layers are on a GPU, or a part of them; the output counts as one."""
        return len({layer for layer, device in zip(self._layers, self.devices, strict=True) if device != CPU})

    @property
    def bytes_in_ram(self) -> int:
        """What weights take in the system's memory."""
        placed = zip(self._graphs, self.devices, strict=True)
        return sum(tensor.n_bytes for graph, device in placed if device == CPU for tensor in graph.tensors)

    def table(self) -> str:
        """Who has what, for people."""
        lines = [layer_split.table(self.blocks, self.devices)] if self.blocks else []
        if gpu := self._split.streams_to:
            least = " or ".join(map(str, sorted({stage.least for stage in self._streamed})))
            n_shared = sum(stage.n_shared for stage in self._streamed)
            lines.append(
                f"{'from RAM':>20}  {gpu.name:8} {gpu.streaming / 2**20:8.1f} MiB to stream what is there for {least} "
                f"tokens and more{f', and {n_shared} layers for fewer' if n_shared else ''}"
            )
        return "\n".join(lines)

    def close(self) -> None:
        if self._cpu:
            self._cpu.close()

    def after_fork(self) -> None:
        """Go on in a child made by fork."""
        if self._cpu:
            self._cpu.after_fork()

    def _build(self, gpus: Sequence[CudaDevice]) -> list[Backend]:
        while True:
            try:
                return self._try_to_build(gpus)
            except (MemoryError, PlanError) as error:
                if self._split.streams_to:  # without it, all works as well, if slower
                    self._split = self._split._replace(streams_to=None)
                elif isinstance(error, PlanError) or self._offload.layers != "auto" or not self._split.n_layers:
                    raise
                else:
                    fewer = self._offload._replace(layers=self._split.n_layers - 1)
                    message = f"GPU memory ran out: trying {fewer.layers} layers there"
                    warnings.warn(message, RuntimeWarning, stacklevel=2)
                    self._split, self._gpu_tokens = self._choose(gpus, fewer)
            gc.collect()  # launches that know each other hold a GPU's memory

    def _choose(self, gpus: Sequence[CudaDevice], offload: Offload) -> tuple[Split, int]:
        """Where layers go, and the tokens of a pass on a GPU: many, unless more layers fit with fewer, or all."""
        from ..backends.cuda.streaming import streaming_bytes

        n_ctx, _, _, type_k, type_v = self._settings
        streaming = streaming_bytes(self._by_layer(range(len(self._graphs) - 1)), n_ctx, type_k, type_v)
        found, failure = [], None
        for n in self._settings.gpu_tokens:
            try:
                found.append((layer_split.split(self.blocks, self._rooms(gpus, n, streaming), offload), n))
            except SplitError as error:
                failure = error
        if not found:
            assert failure
            raise failure
        return max(found, key=lambda it: (CPU not in it[0].devices, bool(it[0].streams_to), it[1]))

    def _try_to_build(self, gpus: Sequence[CudaDevice]) -> list[Backend]:
        """A stage for each run."""
        self._streamed.clear()
        runs = self._runs()
        spaces = self._spaces(gpus, runs)
        layers = [graph for run in runs if run.streamed for graph in run.graphs]
        bus = self._bus(layers, spaces) if layers else None
        n_gpu = self._gpu_tokens if self._settings.n_ubatch or len(spaces) < 2 else min(self._gpu_tokens, _IN_TURNS)
        stages = [
            self._streaming(graphs, bus) if bus and streamed else self._backend(graphs[0], spaces.get(device), n_gpu)
            for device, streamed, graphs in runs
        ]
        for i, stage in enumerate(self._streamed):  # after all else, as they would run
            stage.measure(self._streamed[0] if i else None)
        for stage, following in pairwise(self._streamed):
            stage.following = following.first
        return stages

    def _runs(self) -> list[_Run]:
        devices, to = self._split.devices, self._split.streams_to
        streamed = [bool(to) and device == CPU for device in devices[:-1]] + [False]  # the output never is
        found = []
        for _, run in groupby(range(len(devices)), key=lambda i: (devices[i], streamed[i])):
            first, *_ = blocks = list(run)
            if to and streamed[first]:
                found.append(_Run(to.name, True, self._by_layer(blocks)))
            else:
                found.append(_Run(devices[first], False, [join([self._graphs[i] for i in blocks])]))
        return found

    def _spaces(self, gpus: Sequence[CudaDevice], runs: Sequence[_Run]) -> dict[str, Workspace]:
        """A workspace on each GPU that has work, for all of it."""
        if not gpus:
            return {}
        from ..backends.cuda.workspace import Workspace

        work = {gpu: [graph for run in runs if run.device == gpu.name for graph in run.graphs] for gpu in gpus}
        return {gpu.name: Workspace(gpu, graphs, self._gpu_tokens) for gpu, graphs in work.items() if graphs}

    def _backend(self, graph: Graph, space: Workspace | None, n_gpu: int) -> Backend:
        """n_gpu: tokens of a pass on a GPU."""
        n_ctx, _, n_threads, type_k, type_v = self._settings
        if space is None:
            self._cpu = self._cpu or Cpu(n_threads)
            return CpuBackend(graph, self._cpu, self._settings.cpu_tokens, type_k, type_v)
        from ..backends.cuda.backend import CudaBackend

        return CudaBackend(graph, space, n_gpu, n_ctx, type_k, type_v, cache_in_ram=self._offload.cache_in_ram)

    def _bus(self, layers: Sequence[Graph], spaces: dict[str, Workspace]) -> Bus:
        """What brings these layers to the GPU to which they are streamed."""
        from ..backends.cuda.bus import Bus, room_for

        assert self._split.streams_to
        n_ctx, _, _, type_k, type_v = self._settings
        return Bus(spaces[self._split.streams_to.name], room_for(layers, n_ctx, type_k, type_v))

    def _streaming(self, layers: Sequence[Graph], bus: Bus) -> Backend:
        """A backend for what is in RAM that streams it where that is faster."""
        from ..backends.cuda.streaming import StreamingBackend

        n_ctx, _, n_threads, k, v = self._settings
        self._cpu = cpu = self._cpu or Cpu(n_threads)

        def on_cpu(first: int, last: int, n_tokens: int, memory: PageMemory | None) -> CpuBackend:
            return CpuBackend(join(layers[first:last]), cpu, n_tokens, k, v, memory)

        stage = StreamingBackend(layers, on_cpu, self._settings.cpu_tokens, bus, n_ctx, k, v)
        self._streamed.append(stage)
        return stage

    def _by_layer(self, blocks: Sequence[int]) -> list[Graph]:
        """Of each layer the blocks among these, as one graph."""
        return [join([self._graphs[i] for i in run]) for _, run in groupby(blocks, key=lambda i: self._layers[i])]

    def _block(self, layer: int, graph: Graph) -> Block:
        from ..backends.cuda.weights import device_bytes

        pages = -(-self._settings.n_ctx // (PAGE * SLAB)) * SLAB
        cache = pages * PageLayout(graph.kv, self._settings.type_k, self._settings.type_v).n_bytes
        return Block(layer, sum(map(device_bytes, graph.tensors)), cache, tuple(t.name for t in graph.tensors))

    def _all_on_cpu(self) -> Split:
        return Split([CPU] * len(self._graphs))

    def _rooms(self, gpus: Sequence[CudaDevice], n_tokens: int, streaming: int) -> list[layer_split.Gpu]:
        from ..backends.cuda.workspace import workspace_bytes

        whole = [join(self._graphs)]
        rooms = [gpu.free - workspace_bytes(gpu, whole, n_tokens) - _MARGIN for gpu in gpus]
        return [layer_split.Gpu(gpu.name, room, streaming) for gpu, room in zip(gpus, rooms, strict=True)]


def _gpus(offload: Offload) -> list[CudaDevice]:
    """The GPUs to use; none, with a warning, where some were asked for and there is no GPU that works."""
    moved = any(device.upper() != CPU for _, device in offload.overrides)
    if not moved and (not offload.layers or (offload.layers == "auto" and not gpu_present())):
        return []
    try:
        return open_gpus(offload.main_gpu)
    except GpuError as error:
        if offload.layers != "auto" or offload.main_gpu is not None or moved:
            warnings.warn(f"{error}: all layers run on the CPU", RuntimeWarning, stacklevel=2)
        return []

"""From a model to the pipeline's stages: which devices there are, what each layer takes there, a backend for each run.

Nothing of the GPU's is imported unless layers may go to one.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from . import splitter
from .architectures import Model
from .backends import Backend
from .backends.cpu import Cpu, CpuBackend
from .backends.gpus import GpuError, gpu_present, open_gpus
from .backends.plan import PlanError
from .cache import SLAB, PageLayout, PagePool
from .graph import Graph
from .kernels.layout import PAGE
from .splitter import CPU, Layer, Offload, Split, SplitError

if TYPE_CHECKING:
    from .backends.cuda import CudaDevice, StreamingBackend, Workspace

_MARGIN = 384 << 20  # bytes of a GPU for cuBLAS, kernels, and what the driver takes as it goes
_CPU_TOKENS = 512  # of a pass, if nothing else is asked for
_GPU_TOKENS = 2048, 512  # the same: many, so that a layer's weights are unpacked, or come over the bus, for more tokens


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
        return [self.n_ubatch] if self.n_ubatch else [min(n, self.n_ctx) for n in _GPU_TOKENS]


class Placement:
    """A model's layers on their devices.

    stages: a backend for each run of layers on one device. layers: what each takes on a GPU; empty where none was
    considered. gpus: what these are. Raises SplitError, PlanError, and MemoryError where a GPU has less room than it
    said; unless layers are "auto": then fewer go there, or none, with a warning.
    """

    def __init__(self, model: Model, offload: Offload, settings: Settings) -> None:
        self._model, self._settings, self._offload = model, settings, offload
        self.layers: list[Layer] = []
        self._streamed: dict[str, StreamingBackend] = {}  # by which layers it has
        self._split, self._gpu_tokens = Split([CPU] * (model.n_layer + 1)), 0
        self._cpu: Cpu | None = None
        gpus = _gpus(offload)
        self.gpus = [gpu.description for gpu in gpus]
        try:
            if gpus:
                self.layers = [self._layer(i) for i in range(model.n_layer + 1)]
                self._split, self._gpu_tokens = self._choose(gpus, offload)
            self.stages = self._build(gpus)
        except (PlanError, GpuError) as error:
            if not gpus or offload.layers != "auto":
                raise
            warnings.warn(f"{error}: all layers run on the CPU", RuntimeWarning, stacklevel=2)
            self.layers, self._split = [], Split([CPU] * (model.n_layer + 1))
            self.stages = self._build([])

    @property
    def devices(self) -> list[str]:
        """The name of each layer's device, the output being the last."""
        return self._split.devices

    @property
    def n_on_gpu(self) -> int:
        """How many layers are on a GPU; the output counts as one."""
        return sum(device != CPU for device in self.devices)

    def table(self) -> str:
        """Who has what, for people."""
        lines = [splitter.table(self.layers, self.devices)] if self.layers else []
        if gpu := self._split.streams_to:
            size = f"{gpu.streaming / 2**20:8.1f} MiB"
            for run, stage in self._streamed.items():
                shared = f", and {stage.n_shared} of them for fewer" if stage.n_shared else ""
                lines.append(
                    f"{run:>10}  {gpu.name:8} {size} to stream them there for {stage.least} tokens and more{shared}"
                )
        return "\n".join(lines)

    def close(self) -> None:
        if self._cpu:
            self._cpu.close()

    def _build(self, gpus: Sequence[CudaDevice]) -> list[Backend]:
        while True:
            try:
                return self._try_to_build(gpus)
            except (MemoryError, PlanError) as error:
                if self._split.streams_to:  # without it, all works as well, if slower
                    self._split = self._split._replace(streams_to=None)
                elif isinstance(error, PlanError) or self._offload.layers != "auto" or not self.n_on_gpu:
                    raise
                else:
                    fewer = self._offload._replace(layers=self.n_on_gpu - 1)
                    message = f"GPU memory ran out: trying {fewer.layers} layers there"
                    warnings.warn(message, RuntimeWarning, stacklevel=2)
                    self._split, self._gpu_tokens = self._choose(gpus, fewer)
            gc.collect()  # launches that know each other hold a GPU's memory

    def _choose(self, gpus: Sequence[CudaDevice], offload: Offload) -> tuple[Split, int]:
        """Where layers go, and the tokens of a pass on a GPU: many, unless more layers fit with fewer, or all."""
        found, failure = [], None
        for n in self._settings.gpu_tokens:
            try:
                found.append((splitter.split(self.layers, self._rooms(gpus, n), offload), n))
            except SplitError as error:
                failure = error
        if not found:
            assert failure
            raise failure
        return max(found, key=lambda it: (CPU not in it[0].devices, bool(it[0].streams_to), it[1]))

    def _try_to_build(self, gpus: Sequence[CudaDevice]) -> list[Backend]:
        """A stage for each run of layers on one device; layers that are streamed end before the output."""
        devices, to = self._split.devices, self._split.streams_to
        output = len(devices) - 1
        runs: list[tuple[str, bool, list[int]]] = []  # device, whether streamed, layers
        for (name, _), run in groupby(range(len(devices)), key=lambda i: (devices[i], bool(to) and i == output)):
            layers = list(run)
            runs.append((name, bool(to) and name == CPU and layers != [output], layers))
        spaces = self._spaces(gpus, runs)
        stages: list[Backend] = []
        self._streamed.clear()
        for name, streamed, layers in runs:
            if to and streamed:
                stages.append(self._streaming(layers, spaces[to.name]))
            else:
                stages.append(self._backend(self._model.graph(layers[0], layers[-1] + 1), spaces.get(name)))
        for stage in self._streamed.values():  # after all else, as they would run
            stage.measure()
        return stages

    def _spaces(
        self, gpus: Sequence[CudaDevice], runs: Sequence[tuple[str, bool, Sequence[int]]]
    ) -> dict[str, Workspace]:
        """A workspace on each GPU that has work, for all of it."""
        if not gpus:
            return {}
        from .backends.cuda import Workspace

        graphs: dict[str, list[Graph]] = {}
        for name, streamed, layers in runs:
            if streamed and self._split.streams_to:
                graphs.setdefault(self._split.streams_to.name, []).extend(self._model.graph(i, i + 1) for i in layers)
            elif name != CPU:
                graphs.setdefault(name, []).append(self._model.graph(layers[0], layers[-1] + 1))
        by_name = {gpu.name: gpu for gpu in gpus}
        return {name: Workspace(by_name[name], work, self._gpu_tokens) for name, work in graphs.items()}

    def _backend(self, graph: Graph, space: Workspace | None) -> Backend:
        n_ctx, _, n_threads, type_k, type_v = self._settings
        if space is None:
            self._cpu = self._cpu or Cpu(n_threads)
            return CpuBackend(graph, self._cpu, self._settings.cpu_tokens, type_k, type_v)
        from .backends.cuda import CudaBackend

        return CudaBackend(graph, space, n_ctx, type_k, type_v, self._offload.cache_in_ram)

    def _streaming(self, layers: Sequence[int], space: Workspace) -> Backend:
        """A backend for layers in RAM that streams them where that is faster."""
        from .backends.cuda import StreamingBackend

        n_ctx, _, n_threads, k, v = self._settings
        self._cpu = cpu = self._cpu or Cpu(n_threads)

        def on_cpu(first: int, last: int, n_tokens: int, pool: PagePool) -> CpuBackend:
            return CpuBackend(self._model.graph(layers[first], layers[last - 1] + 1), cpu, n_tokens, k, v, pool)

        graphs = [self._model.graph(i, i + 1) for i in layers]
        stage = StreamingBackend(graphs, on_cpu, self._settings.cpu_tokens, space, n_ctx, k, v)
        self._streamed[f"{layers[0]}-{layers[-1]}"] = stage
        return stage

    def _layer(self, i: int) -> Layer:
        from .backends.cuda import device_bytes

        graph = self._model.graph(i, i + 1)
        pages = -(-self._settings.n_ctx // (PAGE * SLAB)) * SLAB
        cache = pages * PageLayout(graph.kv, self._settings.type_k, self._settings.type_v).n_bytes
        return Layer(sum(map(device_bytes, graph.tensors)), cache, tuple(tensor.name for tensor in graph.tensors))

    def _rooms(self, gpus: Sequence[CudaDevice], n_tokens: int) -> list[splitter.Gpu]:
        from .backends.cuda import streaming_bytes, workspace_bytes

        n_ctx, _, _, type_k, type_v = self._settings
        work = workspace_bytes([self._model.graph()], n_tokens)
        layers = [self._model.graph(i, i + 1) for i in range(self._model.n_layer)]
        streaming = streaming_bytes(layers, n_ctx, type_k, type_v)
        return [splitter.Gpu(gpu.name, gpu.free - work - _MARGIN, streaming) for gpu in gpus]


def _gpus(offload: Offload) -> list[CudaDevice]:
    """The GPUs to use; none, with a warning, where layers were asked for and there is no GPU that works."""
    if not offload.layers or (offload.layers == "auto" and not gpu_present()):
        return []
    try:
        return open_gpus(offload.main_gpu)
    except GpuError as error:
        if offload.layers != "auto" or offload.main_gpu is not None:
            warnings.warn(f"{error}: all layers run on the CPU", RuntimeWarning, stacklevel=2)
        return []

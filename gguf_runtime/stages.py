"""From a model to the pipeline's stages: which devices there are, what each layer takes there, a backend for each run.

Nothing of the GPU's is imported unless layers may go to one.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from . import splitter
from .architectures import Model
from .backends import Backend
from .backends.cpu import Cpu, CpuBackend
from .backends.gpus import GpuError, gpu_present, open_gpus
from .backends.plan import PlanError
from .cache import SLAB, PageLayout
from .graph import Graph
from .kernels.layout import PAGE
from .splitter import CPU, Layer, Offload, Split

if TYPE_CHECKING:
    from .backends.cuda import CudaDevice

_MARGIN = 384 << 20  # bytes of a GPU for cuBLAS, kernels, and what the driver takes as it goes


class Settings(NamedTuple):
    """What every stage must know; Engine explains them."""

    n_ctx: int
    n_ubatch: int
    n_threads: int
    type_k: str
    type_v: str


class Placement:
    """A model's layers on their devices.

    stages: a backend for each run of layers on one device. layers: what each takes on a GPU; empty where none was
    considered. gpus: what these are. Raises SplitError, PlanError, and MemoryError where a GPU has less room than it
    said; unless layers are "auto": then fewer go there, or none, with a warning.
    """

    def __init__(self, model: Model, offload: Offload, settings: Settings) -> None:
        self._model, self._settings, self._offload = model, settings, offload
        self.layers: list[Layer] = []
        self._streamed: dict[str, int] = {}  # which layers, and from how many tokens on
        self._split = Split([CPU] * (model.n_layer + 1))
        self._cpu: Cpu | None = None
        gpus = _gpus(offload)
        self.gpus = [gpu.description for gpu in gpus]
        try:
            if gpus:
                self.layers = [self._layer(i) for i in range(model.n_layer + 1)]
                self._split = splitter.split(self.layers, self._rooms(gpus), offload)
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
            for run, least in self._streamed.items():
                size = f"{gpu.streaming / 2**20:8.1f} MiB"
                lines.append(f"{run:>10}  {gpu.name:8} {size} to stream them there, for {least} tokens and more")
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
                    self._split = splitter.split(self.layers, self._rooms(gpus), fewer)
            gc.collect()  # launches that know each other hold a GPU's memory

    def _try_to_build(self, gpus: Sequence[CudaDevice]) -> list[Backend]:
        """A stage for each run of layers on one device; layers that are streamed end before the output."""
        devices, streams = self._split.devices, bool(self._split.streams_to)
        output = len(devices) - 1
        stages: list[Backend] = []
        trials: list[Callable[[], None]] = []
        for (name, _), run in groupby(range(len(devices)), key=lambda i: (devices[i], streams and i == output)):
            layers = list(run)
            if streams and name == CPU and layers != [output]:
                stages.append(self._streaming(layers, gpus, trials))
            else:
                stages.append(self._backend(name, self._model.graph(layers[0], layers[-1] + 1), gpus))
        for trial in trials:  # after all else, as they would run
            trial()
        return stages

    def _backend(self, device: str, graph: Graph, gpus: Sequence[CudaDevice]) -> Backend:
        n_ctx, n_ubatch, n_threads, type_k, type_v = self._settings
        if device == CPU:
            self._cpu = self._cpu or Cpu(n_threads)
            return CpuBackend(graph, self._cpu, n_ubatch, type_k, type_v)
        from .backends.cuda import CudaBackend

        gpu = next(gpu for gpu in gpus if gpu.name == device)
        return CudaBackend(graph, gpu, n_ubatch, n_ctx, type_k, type_v, self._offload.cache_in_ram)

    def _streaming(
        self, layers: Sequence[int], gpus: Sequence[CudaDevice], trials: list[Callable[[], None]]
    ) -> Backend:
        """A backend for layers in RAM that streams them where that is faster; adds what finds out when it is."""
        from .backends.cuda import StreamingBackend

        n_ctx, n_ubatch, n_threads, type_k, type_v = self._settings
        gpu = next(gpu for gpu in gpus if self._split.streams_to and gpu.name == self._split.streams_to.name)
        self._cpu = cpu = self._cpu or Cpu(n_threads)
        graphs = [self._model.graph(i, i + 1) for i in layers]
        all_layers = CpuBackend(self._model.graph(layers[0], layers[-1] + 1), cpu, n_ubatch, type_k, type_v)
        stage = StreamingBackend(all_layers, graphs, gpu, n_ubatch, n_ctx)

        def compare() -> None:
            stage.compare(lambda n: CpuBackend(graphs[0], cpu, n, type_k, type_v))
            self._streamed[f"{layers[0]}-{layers[-1]}"] = stage.least

        trials.append(compare)
        return stage

    def _layer(self, i: int) -> Layer:
        from .backends.cuda import device_bytes

        graph = self._model.graph(i, i + 1)
        pages = -(-self._settings.n_ctx // (PAGE * SLAB)) * SLAB
        cache = pages * PageLayout(graph.kv, self._settings.type_k, self._settings.type_v).n_bytes
        return Layer(sum(map(device_bytes, graph.tensors)), cache, tuple(tensor.name for tensor in graph.tensors))

    def _rooms(self, gpus: Sequence[CudaDevice]) -> list[splitter.Gpu]:
        from .backends.cuda import streaming_bytes, workspace_bytes

        n_ctx, n_ubatch, _, type_k, type_v = self._settings
        work = workspace_bytes([self._model.graph()], n_ubatch)
        layers = [self._model.graph(i, i + 1) for i in range(self._model.n_layer)]
        streaming = streaming_bytes(layers, n_ubatch, n_ctx, type_k, type_v)
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

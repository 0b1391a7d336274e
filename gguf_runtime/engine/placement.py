"""From a model to the pipeline's stages: which devices there are, what each block takes there, a backend for each run.

Nothing of a GPU's is imported unless layers may go to one.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from ..architectures import Model
from ..backends import Backend, Device, KvTypes, Settings
from ..backends.errors import GpuError, PlanError
from ..backends.gpus import gpu_devices, gpu_present
from ..backends.pages import SLAB, PageLayout
from ..graph import Graph, join
from ..kernels.layout import PAGE
from . import layer_split
from .layer_split import CPU, Block, Offload, Split, SplitError

WHOLE = 8192  # tokens of a pass in which each text has to be whole


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
    considered. gpus: what these are. encoder: what reads source texts, where the model has one. Raises SplitError,
    PlanError, and MemoryError where a GPU has less room than it said; unless layers are "auto": then fewer go there, or
    none, with a warning.
    """

    def __init__(
        self, model: Model, offload: Offload, host: Device, others: Sequence[Device] | None, n_ctx: int, n_ubatch: int,
        kv: KvTypes,
    ) -> None:  # fmt: skip
        """host: the device of what stays in RAM; others: where layers may go, None for the GPUs that there are; n_ctx,
        n_ubatch: as Engine has them."""
        self._graphs, self._offload, self._host = model.graph.blocks(), offload, host
        self._n_ubatch, self._settings = n_ubatch, Settings(0, n_ctx, kv, offload.cache_in_ram)
        self._layers = [graph.result.layer for graph in self._graphs]  # of each block; the last one is the output
        self.blocks: list[Block] = []
        self._split, self._n_tokens = self._all_on_host(), 0
        encoder = model.graph.encoder
        if encoder and offload.layers not in ("auto", 0):
            raise PlanError("an encoder with a decoder runs on the CPU only: ask for no layers on a GPU, with -ngl 0")
        self._others = [] if encoder else list(_gpus(offload) if others is None else others)
        self.gpus = [device.description for device in self._others]
        try:
            if self._others:
                self.blocks = list(map(self._block, self._layers, self._graphs))
                self._split, self._n_tokens = self._choose(offload)
            self.stages = self._build()
        except (PlanError, GpuError) as error:
            if not self._others or offload.layers != "auto":
                raise
            warnings.warn(f"{error}: all layers run on the CPU", RuntimeWarning, stacklevel=2)
            self.blocks, self._split = [], self._all_on_host()
            self.stages = self._build()
        n_whole = min(n_ctx, n_ubatch or WHOLE)
        settings = self._settings._replace(n_tokens=n_whole)
        self.encoder = host.compile_encoder(encoder, settings, self.stages[0]) if encoder else None

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
            notes = dict.fromkeys(note for stage in self.stages if (note := stage.note()))
            lines.append(
                f"{'from RAM':>20}  {gpu.name:8} {gpu.streaming / 2**20:8.1f} MiB to stream what is there "
                f"{'; '.join(notes)}"
            )
        return "\n".join(lines)

    def close(self) -> None:
        for device in (self._host, *self._others):
            device.close()

    def after_fork(self) -> None:
        """Go on in a child made by fork. Raises PlanError where a device cannot."""
        self._host.after_fork()
        for device in self._others:
            if device.name in self.devices:
                device.after_fork()

    def _build(self) -> list[Backend]:
        while True:
            try:
                return self._try_to_build()
            except (MemoryError, PlanError) as error:
                if self._split.streams_to:  # without it, all works as well, if slower
                    self._split = self._split._replace(streams_to=None)
                elif isinstance(error, PlanError) or self._offload.layers != "auto" or not self._split.n_layers:
                    raise
                else:
                    fewer = self._offload._replace(layers=self._split.n_layers - 1)
                    message = f"GPU memory ran out: trying {fewer.layers} layers there"
                    warnings.warn(message, RuntimeWarning, stacklevel=2)
                    self._split, self._n_tokens = self._choose(fewer)
            gc.collect()  # launches that know each other hold a GPU's memory

    def _choose(self, offload: Offload) -> tuple[Split, int]:
        """Where layers go, and the tokens of a pass there: many, unless more layers fit with fewer, or all."""
        layers = self._by_layer(range(len(self._graphs) - 1))
        streaming = [device.streaming_bytes(layers, self._settings) for device in self._others]
        found, failure = [], None
        for n in self._sizes(self._others):
            rooms = [
                layer_split.GpuRoom(device.name, device.room([join(self._graphs)], n), n_bytes)
                for device, n_bytes in zip(self._others, streaming, strict=True)
            ]
            try:
                found.append((layer_split.split(self.blocks, rooms, offload), n))
            except SplitError as error:
                failure = error
        if not found:
            assert failure
            raise failure
        return max(found, key=lambda it: (CPU not in it[0].devices, bool(it[0].streams_to), it[1]))

    def _sizes(self, devices: Iterable[Device]) -> list[int]:
        """Tokens of a pass to choose from, the largest number first."""
        sizes = [self._n_ubatch] if self._n_ubatch else [n for device in devices for n in device.pass_sizes]
        return sorted({min(n, self._settings.n_ctx) if not self._n_ubatch else n for n in sizes}, reverse=True)

    def _try_to_build(self) -> list[Backend]:
        """A stage for each run."""
        runs = self._runs()
        at_work = [device for device in self._others if any(run.device == device.name for run in runs)]
        in_turns = len(at_work) > 1 and not self._n_ubatch
        stages: dict[int, Backend] = {}
        for device in (self._host, *at_work):
            here = [i for i, run in enumerate(runs) if run.device == device.name and not run.streamed]
            streamed = [i for i, run in enumerate(runs) if run.device == device.name and run.streamed]
            n = self._n_ubatch or device.pass_sizes[0] if device is self._host else self._n_tokens
            settings = self._settings._replace(n_tokens=n, in_turns=in_turns)
            if here or streamed:
                of_runs = [runs[i].graphs for i in streamed]
                made = device.compile([runs[i].graphs[0] for i in here], settings, of_runs, self._host)
                stages |= zip([*here, *streamed], made, strict=True)
        return [stages[i] for i in range(len(runs))]

    def _runs(self) -> list[_Run]:
        devices, to = self._split.devices, self._split.streams_to
        streamed = [bool(to) and device == CPU for device in devices[:-1]] + [False]  # the output never is
        found = []
        for _, run in groupby(range(len(devices)), key=lambda i: (devices[i], streamed[i])):
            first, *_ = blocks = list(run)
            if to and streamed[first]:
                found.append(_Run(to.name, True, self._by_layer(blocks)))
            else:
                device = self._host.name if devices[first] == CPU else devices[first]
                found.append(_Run(device, False, [join([self._graphs[i] for i in blocks])]))
        return found

    def _by_layer(self, blocks: Sequence[int]) -> list[Graph]:
        """Of each layer the blocks among these, as one graph."""
        return [join([self._graphs[i] for i in run]) for _, run in groupby(blocks, key=lambda i: self._layers[i])]

    def _block(self, layer: int, graph: Graph) -> Block:
        device, (_, n_ctx, kv, *_) = self._others[0], self._settings
        cache = -(-n_ctx // (PAGE * SLAB)) * SLAB * PageLayout(graph.kv, kv).n_bytes
        return Block(layer, sum(map(device.weight_bytes, graph.tensors)), cache, tuple(t.name for t in graph.tensors))

    def _all_on_host(self) -> Split:
        return Split([CPU] * len(self._graphs))


def _gpus(offload: Offload) -> Sequence[Device]:
    """The GPUs to use; none, with a warning, where some were asked for and there is no GPU that works."""
    moved = any(device.upper() != CPU for _, device in offload.overrides)
    if not offload.layers and not moved:
        return []
    asked = moved or offload.layers != "auto" or offload.main_gpu is not None or bool(offload.tensor_split)
    if not asked and not gpu_present():
        return []
    try:
        return gpu_devices(offload.main_gpu)
    except GpuError as error:
        if asked:
            warnings.warn(f"{error}: all layers run on the CPU", RuntimeWarning, stacklevel=2)
        return []

"""Ray actors as devices: what a model's layers take elsewhere, and backends that hand each pass over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import ray_cluster
from ..graph import Graph
from ..kernels.layout import PAGE
from ..loader import GGUFFile, Tensor
from . import Backend, Batch, Chunk, Device, PassResult, Settings
from .errors import DeviceLost, PlanError
from .pages import Heap, PageMemory, WindowMemory
from .ray_stage import Kind, MemoryFacts, Pages, Stage, StageFacts
from .ray_weights import pack
from .states import StateMemory

_PATIENCE = 120  # seconds for an actor to find its place


def ray_devices(file: GGUFFile, n: int, n_threads: int = 0, address: str | None = None) -> list[RayDevice]:
    """Actors on n machines of a cluster, or on fewer where there are fewer, that can have a model's layers.

    file: the model's, which is at the same path everywhere. n_threads: of each, 0 for its machine's physical cores.
    Raises ClusterError.
    """
    ray_cluster.join(address)
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    actor = ray.remote(num_cpus=n_threads or 1, scheduling_strategy="SPREAD")(Stage)
    arguments = str(file.path.resolve()), [len(part.data) for part in file.parts], n_threads
    actors = [actor.remote(*arguments) for _ in range(n)]
    try:
        rooms = ray.get([actor.room.remote() for actor in actors], timeout=_PATIENCE)
    except GetTimeoutError:
        free = ray.available_resources().get("CPU", 0)
        raise ray_cluster.ClusterError(
            f"{n} stages of {n_threads or 1} CPUs find no place on the Ray cluster, where {free:g} are free: "
            "ask for fewer stages, or threads (-t)"
        ) from None
    except RayActorError as error:
        raise ray_cluster.ClusterError(f"a stage cannot be started: {str(error).strip().splitlines()[-1]}") from None
    return [RayDevice(f"RAY{i}", file, actor, room) for i, (actor, room) in enumerate(zip(actors, rooms, strict=True))]


class RayDevice(Device):
    """An actor, which computes where its weights are: in its machine's memory."""

    pass_sizes: tuple[int, ...] = (512,)

    def __init__(self, name: str, file: GGUFFile, actor: Any, room: int) -> None:
        self.name, self.description, self.actor = name, "an actor of Ray's", actor
        self._file, self._room, self._n_bytes, self._n_stages = file, room, 0, 0

    def weight_bytes(self, tensor: Tensor) -> int:
        return tensor.n_bytes

    def room(self, graphs: Sequence[Graph], n_tokens: int) -> int:
        return self._room

    def streaming_bytes(self, layers: Sequence[Graph], settings: Settings) -> int:
        return 0

    def compile(
        self,
        graphs: Sequence[Graph],
        settings: Settings,
        streamed: Sequence[Sequence[Graph]] = (),
        host: Device | None = None,
    ) -> list[Backend]:
        assert not streamed
        found: list[StageFacts] = fetch(self.actor.compile.remote(pack(graphs, self._file), settings))
        self._n_bytes += sum(tensor.n_bytes for graph in graphs for tensor in graph.tensors)
        first, self._n_stages = self._n_stages, self._n_stages + len(found)
        return [RayBackend(self, first + i, facts) for i, facts in enumerate(found)]

    def compile_encoder(self, graph: Graph, settings: Settings, decoder: Backend) -> Backend:
        raise PlanError("an encoder with a decoder runs on one machine: ask for no stages on others")

    def after_fork(self) -> None:
        raise PlanError("a child made by fork cannot go on with layers on other machines: load the model there")

    def close(self) -> None:
        import ray

        ray.kill(self.actor)

    def free(self) -> int:
        """Bytes that keys, values and states may take: mapped weights will take theirs yet."""
        return int(fetch(self.actor.room.remote())) - self._n_bytes


class RayBackend(Backend):
    """A backend of an actor. Passes are handed over at once, and done in order."""

    def __init__(self, device: RayDevice, number: int, facts: StageFacts) -> None:
        self._actor, self._number, self._step_costs = device.actor, number, facts.step_costs
        self.n_batch, self.max_logits, self.n_alike = facts.n_batch, facts.max_logits, facts.n_alike
        made = {kind: _made(device, number, kind, memory) for kind, memory in facts.memories.items()}
        self.memory, self.windows, self.states = (made.get(kind) for kind in ("memory", "windows", "states"))

    def start(self, batch: Batch, x: np.ndarray | None = None) -> PassResult:
        """Raises DeviceLost, as the result does."""
        running = self._actor.run.remote(self._number, list(map(_sent, batch.chunks)), x)
        return partial(_writable, running)

    def device(self, n_tokens: int) -> object:
        return self._actor

    def step_cost(self, n_tokens: int) -> float:
        costs = self._step_costs
        return costs[n_tokens] if n_tokens < len(costs) else costs[-1] * n_tokens / (len(costs) - 1)


class _AtActor:
    """Memory for records that an actor has."""

    _device: RayDevice
    _number: int
    _kind: Kind
    _n = 0

    def extend_to(self, n: int) -> None:
        if n > self._n:
            fetch(self._ask("extend_to", n))
            self._n = n

    def copy(self, to: int, source: int) -> None:
        self._ask("copy", to, source)  # what is asked for later finds it done

    def read(self, number: int) -> bytes:
        data: bytes = fetch(self._ask("read", number))
        return data

    def write(self, number: int, data: bytes) -> None:
        self._ask("write", number, data)

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._device.actor.remember.remote(self._number, self._kind, method, *arguments)


class _Pages(_AtActor, PageMemory): ...


class _Windows(_AtActor, WindowMemory): ...


class _States(_AtActor, StateMemory): ...


def _made(device: RayDevice, number: int, kind: Kind, facts: MemoryFacts) -> Any:
    heap = Heap(device.name, _refuse, _refuse, device.free)
    memory: Any
    if kind == "memory":
        memory = _Pages(facts.layout, heap)  # type: ignore[arg-type]
    elif kind == "windows":
        memory = _Windows(facts.layout, facts.window, heap)  # type: ignore[arg-type]
    else:
        memory = _States(facts.layout, facts.form, heap)  # type: ignore[arg-type]
    memory._device, memory._number, memory._kind = device, number, kind
    return memory


def _refuse(*_: Any) -> Any:
    raise AssertionError("the memory is another machine's")


def _sent(chunk: Chunk) -> Chunk:
    """A chunk with what the actor must know of its sequence."""
    sequence, end = chunk.sequence, chunk.position + len(chunk.tokens)
    n = -(-max(end, sequence.n_source) // PAGE)
    pages = Pages(sequence.pages[:n], sequence.window_pages[:n], sequence.marks, sequence.n_computed, sequence.n_source)
    return chunk._replace(sequence=pages)  # type: ignore[arg-type]


def _writable(running: Any) -> np.ndarray:
    found: np.ndarray = fetch(running)
    return found if found.flags.writeable else found.copy()  # what lies in Ray's own memory is read only


def fetch(ref: Any) -> Any:
    """What an actor made. Raises what it raised, and DeviceLost where it is gone."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise DeviceLost(
            f"an actor that had layers of the model is gone ({type(error).__name__}): load the model again"
        ) from None

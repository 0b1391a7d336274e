"""A stage of a pipeline in a Ray actor, on whatever machine Ray has put it: an ordinary backend there, asked from here.

Keys, values and states are kept by the actor; what goes over is activations, tokens, and the numbers of pages, by plain
calls. The channels of Ray's compiled graphs take half the time for activations of a long pass, but actors poll them: a
core is busy in each while there is nothing to do.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from ..kernels.cores import physical_cores
from ..loader import open_gguf
from . import Backend, Batch, Chunk, Settings
from .cpu import Cpu
from .pages import PageLayout, WindowMemory, system_room
from .ray_weights import unpack
from .states import StateLayout, StateMark, StateMemory

Kind = Literal["memory", "windows", "states"]


class Pages(NamedTuple):
    """What a step must know of a text (backends.Sequence), as far as it goes."""

    pages: np.ndarray
    window_pages: np.ndarray
    marks: list[StateMark]
    n_computed: int
    n_source: int


class MemoryFacts(NamedTuple):
    """Of a backend's memory. window: as WindowMemory has it."""

    layout: PageLayout | StateLayout
    form: str
    window: int


class StageFacts(NamedTuple):
    """Of a backend. memories: by their names there. step_costs: of so many tokens, from 0 on."""

    memories: dict[Kind, MemoryFacts]
    n_batch: int
    max_logits: int | None
    n_alike: int
    step_costs: list[float]


class Stage:
    """The actor. Backends are numbered in the order in which they are compiled."""

    def __init__(self, path: str, sizes: list[int], n_threads: int) -> None:
        """sizes: bytes of the model's files as the others have it; n_threads: 0 for the number of physical cores.

        Raises OSError, GGUFError, ValueError.
        """
        self._file = open_gguf(path)
        if (found := [len(part.data) for part in self._file.parts]) != sizes:
            raise ValueError(f"{path} is another file here: it has {found} bytes, not {sizes}")
        self._cpu = Cpu(n_threads or physical_cores())
        self._backends: list[Backend] = []

    def room(self) -> int:
        """Bytes that weights, keys and values may take."""
        return system_room()

    def compile(self, packed: bytes, settings: Settings) -> list[StageFacts]:
        """Raises PlanError."""
        made = self._cpu.compile(unpack(packed, self._file), settings)
        self._backends += made
        return list(map(_facts, made))

    def run(self, number: int, chunks: list[Chunk], x: np.ndarray | None) -> np.ndarray:
        """What backend number `number` makes of a batch."""
        return self._backends[number].start(Batch(chunks), x)()

    def remember(self, number: int, kind: Kind, method: str, *arguments: Any) -> Any:
        """Have a method of one of its memories do what it does."""
        return getattr(getattr(self._backends[number], kind), method)(*arguments)


def _facts(backend: Backend) -> StageFacts:
    memories: dict[Kind, MemoryFacts] = {}
    for kind in ("memory", "windows", "states"):
        if memory := getattr(backend, kind):
            window = memory.window if isinstance(memory, WindowMemory) else 0
            memories[kind] = MemoryFacts(memory.layout, _form(memory), window)
    costs = [backend.step_cost(n) for n in range(backend.n_batch + 1)]
    return StageFacts(memories, backend.n_batch, backend.max_logits, backend.n_alike, costs)


def _form(memory: Any) -> str:
    """What StateMemory is given for it, which adds the size."""
    return memory.form.rsplit(" ", 1)[0] if isinstance(memory, StateMemory) else memory.form

"""Backends compile a graph once and run it on every step's batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from typing import NamedTuple, Protocol

import numpy as np

from ..graph import Graph
from ..loader import Tensor
from .pages import KvTypes, PageMemory, WindowMemory
from .states import StateMark, StateMemory

#: Gives what a backend made of a batch, once it is there.
PassResult = Callable[[], np.ndarray]


class Sequence(Protocol):
    """What a step must know of a text (engine/sequence.py)."""

    pages: np.ndarray  # i32: the numbers of its pages, in order; more than needed
    n_computed: int  # tokens that are in them
    source: np.ndarray  # i32: another text, which an encoder reads first
    n_source: int  # its tokens, once the pages keep what it made of them, beside this text's

    @property
    def window_pages(self) -> np.ndarray:
        """i32: as `pages`, of layers that see only a window."""

    @property
    def marks(self) -> list[StateMark]:
        """In order: the state that a step begins from, and those that it leaves; empty where there is none."""

    def n_missing(self, n_tokens: int) -> int:
        """How many pages must be taken so that this many more tokens can be computed."""

    def n_missing_windows(self, n_tokens: int) -> int:
        """The same of pages of layers that see only a window."""

    @property
    def n_missing_states(self) -> int:
        """How many records of states must be taken for the next step."""

    def reserve(self, n_tokens: int) -> None:
        """Take them."""

    def plan_checkpoints(self, n_tokens: int) -> None:
        """Have the step leave states on the way, for others to go on from."""

    def rewind(self, n: int) -> int:
        """Forget what is computed beyond the first n tokens; gives how many of these could be kept."""


class Chunk(NamedTuple):
    """Tokens that follow what is computed of a sequence; logits are wanted for the last `n_logits` of them, or one row
    (n_logits 1) of all, where the graph pools.

    position: of the first one in the sequence, which the engine fills in.
    """

    sequence: Sequence
    tokens: np.ndarray | Items[int]  # i32 where the engine has filled in the position
    n_logits: int = 1
    position: int = 0


class Batch(NamedTuple):
    """A ragged batch, small enough for one pass: any number of sequences, each with its tokens."""

    chunks: list[Chunk]

    @property
    def n_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)

    @property
    def n_logits(self) -> int:
        return sum(chunk.n_logits for chunk in self.chunks)


class Backend(Protocol):
    """A graph of some layers on some device."""

    memory: PageMemory | None  # where its layers keep keys and values; None where none does
    windows: WindowMemory | None  # where those do that see only a window, if they have a memory of their own
    states: StateMemory | None  # where they keep states
    n_batch: int  # tokens of one pass at most
    max_logits: int | None  # rows of them that it can give in one pass, None for n_batch
    n_alike: int  # tokens of one sequence in a step that give, bit for bit, what they give one by one

    def start(self, batch: Batch, x: np.ndarray | None = None) -> PassResult:
        """Start on a batch of at most n_batch tokens; x: f32[n_tokens, width], what the stage before gave.

        The result: logits f32[n_logits, n_vocab] if the graph ends with the output, else f32[n_tokens, width]. The
        next batch may be started before it is there, and needs what this one puts in the cache.
        """
        ...

    def device(self, n_tokens: int) -> object:
        """What works on a batch of n tokens: nothing else can at the same time."""
        ...

    def step_cost(self, n_tokens: int) -> float:
        """About what a step of n tokens costs, in steps of one: one waits for memory, more for arithmetic."""
        ...

    def note(self) -> str:
        """What people may want to know of it beside where its layers are; mostly nothing."""
        return ""

    def close(self) -> None:
        """Give back what does not go by itself: mostly nothing, as memory goes with the last who holds it."""
        return


class Settings(NamedTuple):
    """What a device must know of a model's use: tokens of a pass, and of a text; whether the cache is in RAM; whether
    other devices are at work beside it, to which it hands over, as the CPU does not."""

    n_tokens: int
    n_ctx: int
    kv: KvTypes = KvTypes()
    kv_in_ram: bool = False
    in_turns: bool = False


class Device(Protocol):
    """What can run layers.

    name: as in -ot and -dev; description: for people; pass_sizes: tokens of a pass that suit it, the largest first.
    """

    name: str
    description: str
    pass_sizes: tuple[int, ...]

    def weight_bytes(self, tensor: Tensor) -> int:
        """What a tensor takes there. Raises PlanError where it cannot have its type."""
        ...

    def room(self, graphs: Items[Graph], n_tokens: int) -> int:
        """Bytes that weights and cache may take: what is free, less what work on these graphs needs."""
        ...

    def streaming_bytes(self, layers: Items[Graph], settings: Settings) -> int:
        """What it takes to help with layers that stay in RAM; 0 where it cannot."""
        ...

    def compile(
        self, graphs: Items[Graph], settings: Settings, streamed: Items[Items[Graph]] = (), host: Device | None = None
    ) -> list[Backend]:
        """A backend for each graph; and then for each run of layers whose weights stay with the host.

        All that runs on a device shares what it needs for work. Raises PlanError, MemoryError.
        """
        ...

    def compile_encoder(self, graph: Graph, settings: Settings, decoder: Backend) -> Backend:
        """What reads source texts, each in one pass, and keeps what it makes of them in the decoder's memory.

        Raises PlanError where the device has no such thing.
        """
        ...

    def after_fork(self) -> None:
        """This process is a child made by fork. Raises PlanError where the device cannot go on in it."""
        ...

    def close(self) -> None: ...


def cut(chunks: Items[Chunk], n_tokens: int, n_logits: int | None = None) -> Iterator[Batch]:
    """Cut a ragged batch into passes of at most n_tokens tokens and n_logits rows of logits, in order."""
    batch: list[Chunk] = []
    most = n_logits or n_tokens
    room, logits_room = n_tokens, most
    for sequence, tokens, wanted, position in chunks:
        start, n = 0, len(tokens)
        while start < n:
            first_wanted = max(start, n - wanted)
            end = min(n, start + room, first_wanted + logits_room)
            here = max(0, end - first_wanted)
            batch.append(Chunk(sequence, tokens[start:end], here, position + start))
            room, logits_room = room - (end - start), logits_room - here
            start = end
            if not (room and logits_room):
                yield Batch(batch)
                batch, room, logits_room = [], n_tokens, most
    if batch:
        yield Batch(batch)


def in_passes(
    run: Callable[[Batch, np.ndarray | None], np.ndarray], batch: Batch, x: np.ndarray | None, n_tokens: int
) -> list[np.ndarray]:
    """What `run` gives for each n_tokens tokens of a batch; x: what the stage before gave, a row for each token."""
    results, first = [], 0
    for part in cut(batch.chunks, n_tokens):
        end = first + part.n_tokens
        results.append(run(part, x if x is None else x[first:end]))
        first = end
    return results

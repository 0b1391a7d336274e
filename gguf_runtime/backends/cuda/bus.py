"""The bus as a way for weights to a GPU: a layer arrives while the one before it is at work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from ...graph import Graph
from ...loader import Tensor
from ..pages import KvTypes, PageLayout
from .inputs import CudaInputs
from .kv_staging import n_pages
from .launches import GpuMemory, Launch
from .places import fused_for_gpu
from .plan import CudaPlan
from .program import CudaProgram
from .sizes import up
from .weights import Matrix, matrix_bytes, matrix_of, pieces, tilings
from .workspace import Workspace, weights_of

_ALIGNED, _WHOLE = 256, 1 << 62


class Room(NamedTuple):
    """Bytes that the largest of some layers takes: as the file has it, and in tiles; and its keys and values."""

    raw: int
    tiled: int
    pages: int

    @property
    def n_bytes(self) -> int:
        """Of a Bus."""
        return 2 * self.raw + self.tiled + self.pages


def room_for(layers: Sequence[Graph], n_ctx: int, types: KvTypes) -> Room:
    """What the largest of these layers takes."""
    raw = tiled = page = 0
    for graph in layers:
        matrices = [tensors for item in fused_for_gpu(graph.ops) for tensors in weights_of(item)]
        raw = max(raw, sum(up(t.n_bytes, _ALIGNED) for tensors in matrices for _, t in pieces(tensors, _WHOLE)))
        tiled = max(tiled, sum(up(matrix_bytes(tensors), _ALIGNED) for tensors in matrices))
        page = max(page, PageLayout(graph.kv, types).n_bytes)
    return Room(raw, tiled, n_pages(n_ctx) * page)


class Bus:
    """Two places where layers arrive as they are in the file, in turns, one for the layer at work, in tiles, and one
    for its keys and values. All that is streamed to a GPU shares them.

    unpacked: what is in tiles.
    """

    def __init__(self, space: Workspace, room: Room) -> None:
        """space: made for what is streamed, and for what else is on the GPU."""
        self.space, self.device = space, space.device
        self._raw, self._tiles = [self.device.allocate(room.raw) for _ in range(2)], self.device.allocate(room.tiled)
        self.pages = self.device.allocate(room.pages)
        self._arrived, self._emptied = ([self.device.event() for _ in range(2)] for _ in range(2))
        self._holds: list[Cargo | None] = [None, None]  # what has been sent to each place, and not yet taken from it
        self._places = cycle(range(2))
        self.unpacked: Cargo | None = None

    def cargo(self, graph: Graph, layout: PageLayout, inputs: CudaInputs) -> Cargo:
        """A layer that comes by this bus; what is made after it arrives in the other place."""
        place = next(self._places)
        return Cargo(graph, place, self._raw[place], self._tiles, self.space, layout, inputs)

    def send(self, cargo: Cargo) -> None:
        """Have a layer brought, once its place is empty, unless it is there or on its way."""
        place, bus = cargo.place, self.device.bus
        if self._holds[place] is not cargo:
            bus.wait_event(self._emptied[place])
            for at, tensor in cargo.sources:
                self.device.send(at, tensor.data, bus)
            self._arrived[place].record(bus)
            self._holds[place] = cargo

    def send_ahead(self, cargo: Cargo) -> None:
        """The same, unless something else that nobody has taken yet is in its place."""
        if not self._holds[cargo.place]:
            self.send(cargo)

    def take(self, cargo: Cargo) -> None:
        """Have a layer put into tiles once it has arrived: its plan can be run after."""
        self.send(cargo)
        self.device.stream.wait_event(self._arrived[cargo.place])
        self.device.run(cargo.tilings)
        self._emptied[cargo.place].record(self.device.stream)
        self._holds[cargo.place], self.unpacked = None, cargo


class Cargo:
    """A layer that comes over the bus. sources: its matrices, and where they arrive; tilings: what unpacks them.

    page: the layer's number, and how many bytes of a page of the cache are its own; None of one without attention.
    """

    def __init__(
        self, graph: Graph, place: int, raw: GpuMemory, tiles: GpuMemory, space: Workspace, layout: PageLayout,
        inputs: CudaInputs,
    ) -> None:
        self.place = place
        page_bytes = PageLayout(graph.kv, layout.types).n_bytes
        self.page = next(((number, page_bytes) for number in graph.kv), None)
        self.sources: list[tuple[int, Tensor]] = []
        self.tilings: list[Launch] = []
        self._tiles, self._raw_at, self._tiles_at = tiles, raw.address, tiles.address
        self.program = CudaProgram(CudaPlan(graph, space, layout, None, inputs, self._matrix))

    def _matrix(self, tensors: Sequence[Tensor]) -> Matrix:
        """The next places for these tensors, as they arrive and as one matrix in tiles."""
        n_bytes = matrix_bytes(tensors)
        matrix = matrix_of(tensors, GpuMemory(self._tiles_at, n_bytes, self._tiles.owner))
        self._tiles_at += up(n_bytes, _ALIGNED)
        for first_row, piece in pieces(tensors, _WHOLE):
            self.tilings += tilings(piece, self._raw_at, matrix, first_row)
            self.sources.append((self._raw_at, piece))
            self._raw_at += up(piece.n_bytes, _ALIGNED)
        return matrix

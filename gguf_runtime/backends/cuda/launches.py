"""What the parts of a plan share: memory that work takes, and the lists of launches that they write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ...fusion import AddedProduct, Fused, GatedProduct, Products, RotatedAttention, Single
from ...graph import Graph
from ...kernels.cuda.formats import FORMATS, TILE_ROWS
from ...loader import Tensor
from ...operations import Linear, Value
from ..errors import PlanError
from ..floats import floats
from .device import CudaDevice, Launch, Memory
from .inputs import Inputs
from .places import Places, Rows, fused_for_gpu, place
from .sizes import tiles_of, up
from .weights import Matrix, matrix_type, n_columns, upload_vector

FEW = 32  # tokens at most for which weights are used as they lie
_MANY = 128  # tokens of which a multiple is launched if they are not few: the tile of all products
MAX_LOGITS = 128  # rows of logits in one pass: with a large vocabulary they are the largest of all values
PANEL_TOKENS = 256  # of which panels of prefill_matmul.cu are whole
_SPANS, _FEWEST_SPANS = 32, 4  # of a context, on which attention works at once
_UNPACKED = 128 << 20  # bytes of weights as halves at a time


def rows_of_few(n_tokens: int) -> int:
    """For how many tokens is launched what so few need: there is one graph for 1, 2, 4 …"""
    return 1 << (n_tokens - 1).bit_length() if n_tokens else 0


def spans(n_tokens: int) -> int:
    """How many parts of a context are worked on at once, for so many tokens."""
    return max(_FEWEST_SPANS, _SPANS // n_tokens)


class Workspace:
    """Memory of a GPU that work takes beside weights and cache; graphs that run one after another share it.

    values: where results lie, for n_rows tokens. scratch: what operations use while they run, by its purpose. vectors:
    what was made for one graph, and serves the others too.
    """

    def __init__(self, device: CudaDevice, graphs: Sequence[Graph], n_tokens: int) -> None:
        self.device, self.n_tokens, self.n_rows = device, n_tokens, max(n_tokens, FEW)
        self.places, scratch = _needs(graphs, self.n_rows, device.has_wgmma)
        self.values = device.allocate(self.places.n_bytes)
        self.scratch = {purpose: device.allocate(size) for purpose, size in scratch.items()}
        self.vectors: dict[str | int, Memory] = {}

    def rows_of_many(self, n_tokens: int) -> int:
        """For how many tokens is launched what so many need: there is one graph for 128, 256, 384 …"""
        return min(up(n_tokens, _MANY), self.n_rows)


def workspace_bytes(device: CudaDevice, graphs: Sequence[Graph], n_tokens: int) -> int:
    """Bytes of a workspace for these graphs."""
    places, scratch = _needs(graphs, max(n_tokens, FEW), device.has_wgmma)
    return places.n_bytes + sum(scratch.values())


def by_panels(has_wgmma: bool, kinds: Iterable[str]) -> bool:
    """Whether prompts meet matrices of these types as they are, in panels (prefill_matmul.cu), or unpacked."""
    return has_wgmma and "F16" not in kinds


def _needs(graphs: Sequence[Graph], n_rows: int, has_wgmma: bool) -> tuple[Places, dict[str, int]]:
    """Places of all values, and bytes of scratch memory by its purpose."""
    places, most = Places(), dict[str, int]()
    for graph in graphs:
        fused = fused_for_gpu(graph.ops)
        place(fused, n_rows, MAX_LOGITS, places)
        for purpose, size in _scratch(fused, n_rows, has_wgmma):
            most[purpose] = max(most.get(purpose, 0), size)
    return places, most


def _scratch(fused: Sequence[Fused], n_rows: int, has_wgmma: bool) -> Iterator[tuple[str, int]]:
    """Bytes of memory that operations use while they run, each with its purpose."""
    most = max(FEW * _FEWEST_SPANS, _SPANS)  # tokens × spans
    for item in fused:
        groups = matrices_of(item)  # all of the same width
        kinds = {matrix_type(linears[0].weight) for linears in groups}
        orders = {FORMATS[kind].order for kind in kinds}
        panels = by_panels(has_wgmma, kinds)
        for linears in groups:
            columns = n_columns(linears[0].weight)
            rows = sum(up(op.weight.shape[0], TILE_ROWS) for op in linears)
            if panels:
                yield "panels", len(orders) * 2 * columns * up(n_rows, PANEL_TOKENS)
            else:
                yield "halves", 2 * columns * min(rows, max(_UNPACKED // (2 * columns), TILE_ROWS))
        if isinstance(item, GatedProduct) and not (panels and len(orders) == 1):
            yield "gate", n_rows * 8 * item.op.out.size
        if isinstance(item, RotatedAttention):
            n_heads = item.q.heads
            k_dim, v_dim = item.q.width, item.v.width
            yield "queries", n_rows * n_heads * 2 * up(k_dim, 16)
            yield "sums", most * n_heads * 4 * up(v_dim, 16)
            yield "states", most * n_heads * 8
            yield "done", FEW * n_heads * 4


def matrices_of(item: Fused) -> list[list[Linear]]:
    """The products of an item, those of one type together: each list is one matrix on the GPU."""
    linears: Iterable[Linear] = ()
    if isinstance(item, Products):
        linears = item.linears
    elif isinstance(item, AddedProduct):
        linears = (item.linear,)
    elif isinstance(item, Single) and isinstance(item.op, Linear):
        linears = (item.op,)
    elif isinstance(item, GatedProduct):
        return [[item.gate], [item.up]]
    return [list(run) for _, run in groupby(linears, lambda op: matrix_type(op.weight))]


class Token(NamedTuple):
    """What a product of one token reads: halves, or f32 of which it makes the norm itself."""

    x: int
    weight: int = 0  # of the norm
    eps: float = 0.0


class Launches:
    """`one`, `few`, `many`: what to launch, in order, for a batch; and what those who write these lists must know.

    rows: where each value lies, by its number. norms: results of norms that the products which read them make
    themselves, if there is one token. matrix: gives tensors of one type and width as one matrix on the GPU.
    many_as_graph: whether `many` can be captured: CuPy does not let cuBLAS be.
    """

    def __init__(
        self, fused: Sequence[Fused], space: Workspace, inputs: Inputs, matrix: Callable[[Sequence[Tensor]], Matrix]
    ) -> None:
        self.device, self.space, self.inputs, self.matrix = space.device, space, inputs, matrix
        rows = place(fused, space.n_rows, MAX_LOGITS, space.places)
        self.rows: dict[int, Rows] = {
            number: row._replace(at=row.at + space.values.address) for number, row in rows.items()
        }
        self.norms: dict[int, Token] = {}
        self.weights: list[Matrix] = []  # all, so that their memory stays
        self.n_logits = self.n_tasks = 0  # of a batch of many tokens; n_tasks: attention's
        self.decode: list[Launch] = []
        self.small_batch: list[Launch] = []
        self.prefill: list[Launch] = []
        self.many_as_graph = True

    def all(self, launch: Launch, selected: bool = False) -> None:
        """Launch this in any batch; selected: for the tokens whose logits are wanted."""
        self.decode.append(launch)
        self.batches(launch, selected)

    def batches(self, launch: Launch, selected: bool = False) -> None:
        """Launch this in batches of few and of many tokens."""
        self.small_batch.append(launch)
        self.prefill.append((lambda n: self.n_logits and launch(self.n_logits)) if selected else launch)

    def count(self, value: Value) -> int:
        """Address of the number of tokens, or of those whose logits are wanted."""
        return self.inputs.n_tokens if value.rows == "token" else self.inputs.n_logits

    def vector(self, tensor: Tensor) -> int:
        """Address of a vector of weights, f32."""
        vectors = self.space.vectors
        if tensor.name not in vectors:
            vectors[tensor.name] = upload_vector(self.device, floats(tensor))
        return vectors[tensor.name].address

    def activation(self, a: int, b: int, stride: int, out: Rows, width: int) -> Launch:
        """Launch silu(a)·b; a, b: addresses of f32, rows at `stride`."""
        kernel, rest = self.device.kernel("activate"), (a, b, stride, out.at, width, out.stride)
        if width % 4:
            raise PlanError(f"an activation of {width} columns: not on the GPU yet")
        return lambda n: kernel((tiles_of(width, 1024), n), 256, rest)

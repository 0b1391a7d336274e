"""Memory that work on a GPU takes beside weights and cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ...fusion import AddedProduct, Fused, GatedExperts, GatedProduct, Products, RotatedAttention, Single
from ...graph import Graph
from ...kernels.cuda.formats import FORMATS, TILE_ROWS
from ...loader import Tensor
from ...operations import ExpertLinear, HeadLinear, Linear, RopeFrequencies
from .launches import FEW, MAX_LOGITS, GpuMemory
from .places import Places, fused_for_gpu, halves_made, place
from .sizes import up
from .weights import matrix_type, n_columns

if TYPE_CHECKING:
    from .device import CudaDevice

_MANY = 128  # tokens of which a multiple is launched if they are not few: the tile of all products
PANEL_TOKENS = 256  # of which panels of prefill_matmul.cu are whole
_SPANS, _FEWEST_SPANS = 32, 4  # of a context, on which attention works at once
_UNPACKED = 128 << 20  # bytes of weights as halves at a time
_FEWEST_TOGETHER = 8  # tokens of an expert, in one group (experts.cu)


def rows_of_few(n_tokens: int) -> int:
    """For how many tokens is launched what so few need: there is one graph for 1, 2, 4 …"""
    return 1 << (n_tokens - 1).bit_length() if n_tokens else 0


def spans(n_tokens: int) -> int:
    """How many parts of a context are worked on at once, for so many tokens."""
    return max(_FEWEST_SPANS, _SPANS // n_tokens)


def expert_groups(n_experts: int, n_pairs: int, most: int) -> int:
    """Groups at most of so many pairs of a token and an expert, with `most` or fewer of one expert each."""
    return min(n_experts, n_pairs) + n_pairs // most


class Workspace:
    """What graphs that run one after another share.

    values: where results lie, for n_rows tokens. scratch: what operations use while they run, by its purpose. vectors:
    what was made for one graph, and serves the others too. ropes: they stay, since vectors are named by their ids.
    """

    def __init__(self, device: CudaDevice, graphs: Sequence[Graph], n_tokens: int) -> None:
        self.device, self.n_tokens, self.n_rows = device, n_tokens, max(n_tokens, FEW)
        self.places, scratch = _needs(graphs, self.n_rows, device.has_wgmma)
        self.values = device.allocate(self.places.n_bytes)
        self.scratch = {purpose: device.allocate(size) for purpose, size in scratch.items()}
        self.vectors: dict[str | int, GpuMemory] = {}
        self.ropes: list[RopeFrequencies] = []

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
    halves = halves_made(fused)
    for item in fused:
        groups = matrices_of(item)  # all of the same width
        kinds = {matrix_type(linears[0].weight) for linears in groups}
        orders = {FORMATS[kind].order for kind in kinds}
        panels = by_panels(has_wgmma, kinds)
        for linears in groups:
            columns = n_columns(linears[0].weight)
            rows = sum(up(op.weight.shape[0], TILE_ROWS) for op in linears)
            if linears[0].x.number not in halves:
                yield "packed", 2 * columns * n_rows
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
        if isinstance(item, GatedExperts):
            yield from _expert_scratch(item.gate, n_rows)
        if isinstance(item, Single) and isinstance(item.op, ExpertLinear | HeadLinear):
            yield from _expert_scratch(item.op, n_rows)


def _expert_scratch(op: ExpertLinear | HeadLinear, n_rows: int) -> Iterator[tuple[str, int]]:
    yield "packed", 2 * n_columns(op.weight) * n_rows * op.x.heads
    if isinstance(op, ExpertLinear):
        n_pairs = n_rows * op.route.heads
        yield "pairs", 4 * n_pairs
        yield "groups", 12 * expert_groups(op.weight.shape[0], n_pairs, _FEWEST_TOGETHER)


def matrices_of(item: Fused) -> list[list[Linear]]:
    """The products of an item, those of one type together: each list is one matrix on the GPU."""
    linears: Iterable[Linear] = ()
    if isinstance(item, Products):
        linears = item.linears
    elif isinstance(item, AddedProduct):
        linears = (item.linear,)
    elif isinstance(item, GatedProduct):
        return [[item.gate], [item.up]]
    return by_type(linears)


def by_type(linears: Iterable[Linear]) -> list[list[Linear]]:
    """Products of matrices of one type together."""
    return [list(run) for _, run in groupby(linears, lambda op: matrix_type(op.weight))]


def weights_of(item: Fused) -> list[list[Tensor]]:
    """Tensors that an item multiplies with: each list is one matrix on the GPU."""
    if isinstance(item, GatedExperts):
        return [[item.gate.weight], [item.up.weight]]
    if isinstance(item, Single) and isinstance(item.op, ExpertLinear | HeadLinear):
        return [[item.op.weight]]
    return [[op.weight for op in group] for group in matrices_of(item)]

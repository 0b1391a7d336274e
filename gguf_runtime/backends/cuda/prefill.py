"""Products of prompts on Hopper's tensor cores, straight from quantised weights (kernels/cuda/prefill_matmul.cu)."""

from __future__ import annotations

from collections.abc import Sequence

from .places import Rows
from .sizes import tiles_of, up
from .weights import Matrix, in_pairs
from .workspace import PANEL_TOKENS, by_panels
from .writer import CudaWriter

_ROWS, _THREADS, _WEIGHT_PLACES = 128, 384, 2  # as in prefill_matmul.cu
_PANEL, _MOST_PANELS = 256 * 128, 7  # bytes of a panel of 256 tokens; places of them
_OWN = 2 << 10  # bytes of shared memory of a block beside weights and panels: barriers, and what aligns the panels
_LONG, _SHORT = 2.0, 1.2  # what blocks that take 256 and 128 tokens cost


def takes(w: CudaWriter, matrices: Sequence[Matrix]) -> bool:
    """Whether these kernels are for these matrices."""
    return by_panels(w.device.has_wgmma, [matrix.type for matrix in matrices])


def products(w: CudaWriter, matrices: Sequence[Matrix], x: Rows, out: Rows, n: int, add: bool) -> None:
    """x times each of the matrices, for n tokens; results lie side by side in `out`, f32."""
    panels = _panels(w, matrices, x, n)
    for a, b, column in in_pairs(matrices):
        _pair(w, a, b, panels, out._replace(at=out.at + 4 * column), n, add=add)


def gate(w: CudaWriter, gate: Matrix, up: Matrix, x: Rows, out: Rows, n: int) -> None:
    """silu(x·gate)·(x·up), as halves; both matrices want the same panels."""
    _pair(w, gate, up, _panels(w, [gate, up], x, n), out, n, gate=True)


def _panels(w: CudaWriter, matrices: Sequence[Matrix], x: Rows, n: int) -> dict[tuple[int, bool], int]:
    """Have the tokens arranged as the kernel reads them, once for each order of columns: where these lie."""
    n_columns = matrices[0].n_columns
    size = 2 * n_columns * up(w.plan.space.n_rows, PANEL_TOKENS)
    orders = {matrix.format.order: matrix.type for matrix in reversed(matrices)}
    at = {order: w.scratch("panels") + i * size for i, order in enumerate(orders)}
    for order, kind in orders.items():
        grid = tiles_of(n_columns // 8, 256), n
        w.launch(f"arrange<{kind}>", grid, 256, x.at, x.stride, n_columns, at[order])
    return at


def _pair(
    w: CudaWriter, a: Matrix, b: Matrix | None, panels: dict[tuple[int, bool], int], out: Rows, n: int, *,
    add: bool = False, gate: bool = False,
) -> None:  # fmt: skip
    device, b_or_a, b_rows = w.device, b or a, b.n_rows if b else 0
    n_pairs = tiles_of(a.n_rows, 2 * _ROWS) + tiles_of(b_rows, 2 * _ROWS)
    place = 8 * max(matrix.format.tile_bytes for matrix in (a, b_or_a))  # of weights: 16 rows for each of 8 warps
    if gate:  # four of each matrix
        n_pairs, place = tiles_of(a.n_rows, _ROWS), 4 * (a.format.tile_bytes + b_or_a.format.tile_bytes)
    room = min((device.max_shared - _OWN - _WEIGHT_PLACES * place) // _PANEL, _MOST_PANELS) * _PANEL
    n_long = _long_pairs(n_pairs, n, device.n_processors // 2)
    n_clusters = n_long * tiles_of(n, 256) + (n_pairs - n_long) * tiles_of(n, 128)
    w.launch(
        f"prompt<{a.type}, {b_or_a.type}, {str(gate).lower()}>", (2 * n_clusters,), _THREADS,
        a.memory.address, a.n_rows, b_or_a.memory.address, b_rows, a.n_columns, panels[a.format.order],
        panels[b_or_a.format.order], n, out.at, out.stride, int(add), place, room, n_long,
        shared=_OWN // 2 + _WEIGHT_PLACES * place + room,
    )  # fmt: skip


def _long_pairs(n_pairs: int, n: int, at_once: int) -> int:
    """How many pairs of blocks should take 256 of n tokens at once: all, or those that keep the GPU busy to the end.

    at_once: pairs for which it has processors.
    """
    long, short = tiles_of(n, 256), tiles_of(n, 128)
    whole = n_pairs * long // at_once
    some = whole * at_once // long
    with_rest = _LONG * whole + _SHORT * tiles_of((n_pairs - some) * short, at_once)
    return some if with_rest < _LONG * tiles_of(n_pairs * long, at_once) else n_pairs

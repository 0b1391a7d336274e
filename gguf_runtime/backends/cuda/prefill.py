"""Products of prompts on Hopper's tensor cores, straight from quantised weights (kernels/cuda/prefill_matmul.cu)."""

from __future__ import annotations

from collections.abc import Sequence

from .device import Launch
from .launches import PANEL_TOKENS, Launches, by_panels
from .places import Rows
from .sizes import tiles_of, up
from .weights import Matrix, in_pairs

_ROWS, _THREADS, _WEIGHT_PLACES = 128, 384, 2  # as in prefill_matmul.cu
_PANEL, _MOST_PANELS = 256 * 128, 7  # bytes of a panel of 256 tokens; places of them
_OWN = 2 << 10  # bytes of shared memory of a block beside weights and panels: barriers, and what aligns the panels
_LONG, _SHORT = 2.0, 1.2  # what blocks that take 256 and 128 tokens cost


class PromptWriter:
    """Writes launches of prefill_matmul.cu."""

    def __init__(self, to: Launches) -> None:
        self._to, self._device = to, to.device

    def takes(self, matrices: Sequence[Matrix]) -> bool:
        """Whether it is for these matrices."""
        return by_panels(self._device.has_wgmma, [matrix.type for matrix in matrices])

    def products(self, matrices: Sequence[Matrix], x: Rows, out: Rows, add: bool) -> Launch:
        """Launch x times each of the matrices, whose results lie side by side in `out`, f32."""
        panels = _Panels(self._to, x, matrices[0].n_columns)
        return panels.before([
            self._pair(a, b, panels, out._replace(at=out.at + 4 * column), add=add)
            for a, b, column in in_pairs(matrices)
        ])  # fmt: skip

    def gate(self, gate: Matrix, up: Matrix, x: Rows, out: Rows) -> Launch:
        """Launch silu(x·gate)·(x·up), as halves; both matrices want the same panels."""
        panels = _Panels(self._to, x, gate.n_columns)
        return panels.before([self._pair(gate, up, panels, out, gate=True)])

    def _pair(
        self, a: Matrix, b: Matrix | None, panels: _Panels, out: Rows, *, add: bool = False, gate: bool = False
    ) -> Launch:
        device, b_or_a, b_rows = self._device, b or a, b.n_rows if b else 0
        n_pairs = tiles_of(a.n_rows, 2 * _ROWS) + tiles_of(b_rows, 2 * _ROWS)
        place = 8 * max(matrix.format.tile_bytes for matrix in (a, b_or_a))  # of weights: 16 rows for each of 8 warps
        if gate:  # four of each matrix
            n_pairs, place = tiles_of(a.n_rows, _ROWS), 4 * (a.format.tile_bytes + b_or_a.format.tile_bytes)
        room = (device.max_shared - _OWN - _WEIGHT_PLACES * place) // _PANEL * _PANEL
        room, x_a, x_b = min(room, _MOST_PANELS * _PANEL), panels.of(a), panels.of(b_or_a)
        weights = a.memory.address, a.n_rows, b_or_a.memory.address, b_rows, a.n_columns
        shared = _OWN // 2 + _WEIGHT_PLACES * place + room
        name = f"prompt<{a.type}, {b_or_a.type}, {str(gate).lower()}>"

        def launch(n: int) -> None:
            n_long = _long_pairs(n_pairs, n, device.n_processors // 2)
            n_clusters = n_long * tiles_of(n, 256) + (n_pairs - n_long) * tiles_of(n, 128)
            rest = n, out.at, out.stride, int(add), place, room, n_long
            device.kernel(name, shared)((2 * n_clusters,), _THREADS, (*weights, x_a, x_b, *rest))

        return launch


def _long_pairs(n_pairs: int, n: int, at_once: int) -> int:
    """How many pairs of blocks should take 256 of n tokens at once: all, or those that keep the GPU busy to the end.

    at_once: pairs for which it has processors.
    """
    long, short = tiles_of(n, 256), tiles_of(n, 128)
    whole = n_pairs * long // at_once
    some = whole * at_once // long
    with_rest = _LONG * whole + _SHORT * tiles_of((n_pairs - some) * short, at_once)
    return some if with_rest < _LONG * tiles_of(n_pairs * long, at_once) else n_pairs


class _Panels:
    """A product's tokens as its kernel reads them, once for each order of columns that the matrices want."""

    def __init__(self, to: Launches, x: Rows, n_columns: int) -> None:
        self._device, self._x, self._n_columns = to.device, x, n_columns
        self._at, self._size = to.space.scratch["panels"].address, 2 * n_columns * up(to.space.n_rows, PANEL_TOKENS)
        self._orders: dict[tuple[int, bool], Matrix] = {}

    def of(self, matrix: Matrix) -> int:
        """Address of the panels for this matrix."""
        self._orders.setdefault(matrix.format.order, matrix)
        return self._at + self._size * list(self._orders).index(matrix.format.order)

    def before(self, products: Sequence[Launch]) -> Launch:
        """Launch what fills the panels, and then these products."""

        def launch(n: int) -> None:
            x, grid = self._x, (tiles_of(self._n_columns // 8, 256), n)
            for matrix in self._orders.values():
                kernel = self._device.kernel(f"arrange<{matrix.type}>")
                kernel(grid, 256, (x.at, x.stride, self._n_columns, self.of(matrix)))
            for product in products:
                product(n)

        return launch

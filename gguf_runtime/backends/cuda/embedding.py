"""Rows of an embedding, which the host gathers from the file for each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...kernels.cuda.formats import FORMATS, tiled_bytes
from ...operations import Embed
from ..errors import PlanError
from .weights import Matrix, gather_rows, matrix_type, n_columns, tilings

if TYPE_CHECKING:
    from .device import CudaDevice


class EmbeddedRows:
    """What a batch needs of one table: at `address`, in tiles."""

    def __init__(self, device: CudaDevice, op: Embed, n_ubatch: int) -> None:
        self._device, self._op, self._table = device, op, op.table
        in_tiles = tiled_bytes(FORMATS[matrix_type(op.table)], n_ubatch, op.table.shape[1])
        in_rows = n_ubatch * op.table.n_bytes // op.table.shape[0]
        self._host = device.pinned(max(in_tiles, in_rows))
        self._tiles, self._gathered = device.allocate(in_tiles), device.allocate(in_rows)
        self.address = self._tiles.address

    def write(self, ids: np.ndarray, positions: np.ndarray, n_rows: int, *, many: bool) -> None:
        """Send the rows of tokens, filled up to n_rows of them."""
        by, n = self._op.by, self._table.shape[0]
        if by == "position" and len(positions) and positions.max() >= n:
            raise PlanError(f"the model has embeddings for {n} positions: ask for no more with -c")
        numbers = np.zeros(n_rows, np.int32)
        numbers[: len(ids)] = ids if by == "token" else positions % n
        if many:
            self._tile(numbers)
        else:  # as they lie in tiles, in one copy
            n_bytes = gather_rows(self._table, numbers, self._host)
            self._device.copy(self.address, self._host.ctypes.data, n_bytes)

    def _tile(self, numbers: np.ndarray) -> None:
        """Send rows as the file has them, and have the GPU put them into tiles: they are many."""
        table = self._table
        rows = table.data.reshape(table.shape[0], -1)[numbers]
        host = self._host[: rows.nbytes]
        host[:] = rows.reshape(-1)
        self._device.copy(self._gathered.address, host.ctypes.data, rows.nbytes)
        matrix = Matrix(matrix_type(table), len(numbers), n_columns(table), self._tiles)
        part = table._replace(shape=(len(numbers), table.shape[1]), data=host)
        self._device.run(tilings(part, self._gathered.address, matrix, 0))

"""Brings weights to a GPU, to stay there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ...loader import Tensor
from .weights import Matrix, matrix_bytes, matrix_of, pieces, tilings

if TYPE_CHECKING:
    from .device import CudaDevice

_UPLOAD = 64 << 20  # bytes of a matrix that go over the bus before they are laid out


class Upload:
    """Brings matrices to a GPU: as their bytes are, over the bus, and then into tiles.

    tensors: those that may come, which are pinned while this is open.
    """

    def __init__(self, device: CudaDevice, tensors: Iterable[Tensor]) -> None:
        self._device, self._room = device, [device.allocate(_UPLOAD)]
        self._pinned = device.pin([tensor.data for tensor in tensors])

    def __call__(self, tensors: Sequence[Tensor]) -> Matrix:
        """Tensors of one type and width, their rows one after another, as one matrix."""
        device, (room,) = self._device, self._room
        matrix = matrix_of(tensors, device.allocate(matrix_bytes(tensors)))
        with device.working():
            for first_row, piece in pieces(tensors, _UPLOAD):
                device.send(room.address, piece.data)
                device.run(tilings(piece, room.address, matrix, first_row))
            device.synchronize()
        return matrix

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *error: object) -> None:
        self._pinned.close()
        self._room.clear()

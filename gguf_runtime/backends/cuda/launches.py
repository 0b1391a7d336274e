"""What a GPU is to do, as data: kernels with their arguments. Nothing here needs a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

FEW = 32  # tokens at most for which weights are used as they lie
MAX_LOGITS = 128  # rows of logits in one pass: with a large vocabulary they are the largest of all values

#: For pointers and whole numbers; for floats.
Argument = int | np.float32


class Launch(NamedTuple):
    """A kernel of kernels/cuda (source.FILES), for `grid` blocks of `block` threads.

    shared: bytes of dynamic shared memory. overlaps: whether it may begin while the one before still runs.
    """

    kernel: str
    grid: tuple[int, ...]
    block: int
    arguments: tuple[Argument, ...]
    shared: int = 0
    overlaps: bool = False


class Multiply(NamedTuple):
    """out[token][row] = Σ weights[row][column]·x[token][column] (+ out), by cuBLAS on tensor cores.

    weights, x: halves, rows of n_columns; out: f32, rows at out_stride. All are addresses.
    """

    weights: int
    n_rows: int
    x: int
    n_columns: int
    n_tokens: int
    out: int
    out_stride: int
    add: bool


Work = Launch | Multiply


class Sizes(NamedTuple):
    """Of a batch, rounded up, so that few of them differ: tokens, rows of logits, tasks of attention, sequences.

    few: whether products use weights as they lie.
    """

    n_tokens: int
    n_logits: int
    n_tasks: int = 0
    n_chunks: int = 1
    few: bool = True


class GpuMemory(NamedTuple):
    """Some memory of the GPU, or of the system where the GPU reaches it; `owner` keeps it."""

    address: int
    n_bytes: int
    owner: Any

"""Products of weights: for one token and for few straight from quantised weights, for many through halves as a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...fusion import Fused, GatedProduct
from ...kernels.cuda.formats import TILE_ROWS
from ...operations import Linear, describe
from ..errors import PlanError
from ..floats import floats
from .device import Launch
from .launches import FEW, Launches, Token, matrices_of
from .places import Rows
from .prefill import PromptWriter
from .sizes import tiles_of, up
from .weights import Matrix, in_pairs, n_columns, upload_vector

_MATVEC_WARPS, _MATVEC_THREADS, _CHUNK, _MATMUL_ROWS = 8, 288, 256, 64  # as in matvec.cu and matmul.cu
_MATVEC_BLOCKS = 2  # on a processor at a time
_MATVEC_OWN, _RING_OWN = 3 << 10, 128  # bytes of shared memory of a block beside all this, and of a ring's barriers
_MOST_STAGES, _FEWER_STAGES = 8, 3  # as in ring.cuh: of a ring that a supplier fills, and of others


class ProductWriter:
    """Writes launches of products."""

    def __init__(self, to: Launches) -> None:
        self._to, self._device = to, to.device
        self._prompts = PromptWriter(to)

    def products(self, item: Fused, linears: Sequence[Linear], out: Rows, *, add: bool) -> None:
        x, count = self._halves(linears[0]), self._to.count(linears[0].x)
        matrices = [self._to.matrix([op.weight for op in group]) for group in matrices_of(item)]
        self._to.weights += matrices
        bias = self._bias(linears)
        few: list[Launch] = []
        for a, b, column in in_pairs(matrices):
            to, offset = out.at + 4 * column, bias and bias + 4 * column
            self._one_product(a, b, self._token(linears[0]), to, offset, add)
            b_rows = b.n_rows if b else 0
            tiles = tiles_of(a.n_rows, _MATMUL_ROWS) + tiles_of(b_rows, _MATMUL_ROWS)
            arguments = (
                a.memory.address, a.n_rows, (b or a).memory.address, b_rows, a.n_columns, x.at, x.stride, count,
                to, out.stride, offset, int(add),
            )  # fmt: skip
            # few tiles: more threads to each, where there is shared memory for them
            splits = 4 if tiles <= self._device.n_processors and self._device.max_shared >= 128 << 10 else 2
            name = f"matmul<{a.type}, {(b or a).type}, {{}}, {splits}>"
            few.append(self._few_products(name, tiles, splits, arguments))
        many = [self._many_products(matrices, x, out, add)]
        if bias:
            kernel, width = self._device.kernel("add"), sum(matrix.n_rows for matrix in matrices)
            many.append(lambda n: kernel((tiles_of(width, 256), n), 256, (out.at, bias, 0, out.at, width)))
        self._to.small_batch += few
        if linears[0].x.rows == "selected":
            many = [self._selected_products(few, many)]
        self._to.prefill += many

    def _selected_products(self, few: list[Launch], many: list[Launch]) -> Launch:
        """Of a batch of many tokens, the logits of few are wanted as a rule, or none."""

        def launch(n: int) -> None:
            n = self._to.n_logits
            for product in (few if n <= FEW else many) if n else ():
                product(n)

        return launch

    def gate(self, item: GatedProduct) -> None:
        x, out, width = self._halves(item.gate), self._to.rows[item.op.out.number], item.op.out.size
        gate, up = (self._to.matrix([op.weight]) for op in (item.gate, item.up))
        self._to.weights += gate, up
        self._one_gate(gate, up, self._token(item.gate), out.at)
        arguments = (
            gate.memory.address, up.memory.address, gate.n_rows, gate.n_columns, x.at, x.stride,
            self._to.inputs.n_tokens, out.at, out.stride,
        )  # fmt: skip
        name, tiles = f"matmul_gate<{gate.type}, {up.type}, {{}}>", tiles_of(gate.n_rows, _MATMUL_ROWS)
        self._to.small_batch.append(self._few_products(name, tiles, 2, arguments))

        if self._prompts.takes([gate, up]) and gate.format.order == up.format.order:
            self._to.prefill.append(self._prompts.gate(gate, up, x, out))
            return
        both = Rows(self._to.space.scratch["gate"].address, 2 * width, False)
        self._to.prefill.append(self._many_products([gate, up], x, both, add=False))
        self._to.prefill.append(self._to.activation(both.at, both.at + 4 * width, both.stride, out, width))

    def _one_product(self, a: Matrix, b: Matrix | None, token: Token, out: int, bias: int, add: bool) -> None:
        """One token: a kernel for the rows of a and of b, that makes the norm before, and adds to what is there."""
        n_bytes = _MATVEC_WARPS * max(matrix.format.tile_bytes * _CHUNK // matrix.format.step for matrix in (a, b or a))
        kernel, n_stages = self._matvec("matvec", a, b or a, n_bytes)
        n_tiles = tiles_of(a.n_rows, TILE_ROWS) + (tiles_of(b.n_rows, TILE_ROWS) if b else 0)
        grid = (min(n_tiles, _MATVEC_BLOCKS * self._device.n_processors),)
        arguments = (
            a.memory.address, a.n_rows, (b or a).memory.address, b.n_rows if b else 0, a.n_columns, n_stages, token.x,
            token.weight, np.float32(token.eps), out, bias, int(add),
        )  # fmt: skip
        self._to.decode.append(lambda n: kernel(grid, _MATVEC_THREADS, arguments))

    def _one_gate(self, gate: Matrix, up: Matrix, token: Token, out: int) -> None:
        sizes = [matrix.format.tile_bytes * _CHUNK // matrix.format.step for matrix in (gate, up)]
        kernel, n_stages = self._matvec("matvec_gate", gate, up, _MATVEC_WARPS // 2 * sum(sizes))
        grid = (min(tiles_of(gate.n_rows, TILE_ROWS), _MATVEC_BLOCKS * self._device.n_processors),)
        arguments = (
            gate.memory.address, up.memory.address, gate.n_rows, gate.n_columns, n_stages, token.x, token.weight,
            np.float32(token.eps), out,
        )  # fmt: skip
        self._to.decode.append(lambda n: kernel(grid, _MATVEC_THREADS, arguments))

    def _matvec(self, name: str, a: Matrix, b: Matrix, stage: int) -> tuple[Callable[..., None], int]:
        """A kernel of matvec.cu for two matrices, and the places of its ring; stage: bytes of a place.

        Raises PlanError where not even one fits.
        """
        device, fixed = self._device, _MATVEC_OWN + _token_bytes(a, b)
        # a block's part of a processor's memory; at least two places, if they fit at all
        room = min(max(device.shared_of_processor // _MATVEC_BLOCKS, fixed + 2 * stage), device.max_shared)
        n_stages = min(max((room - fixed) // stage, 1), _MOST_STAGES if device.overlaps else _FEWER_STAGES)
        if fixed + n_stages * stage > device.max_shared:
            raise PlanError(f"{a.type} weights of {a.n_columns} columns: too large for this GPU's shared memory")
        shared = _RING_OWN + n_stages * stage + _token_bytes(a, b)
        return device.kernel(f"{name}<{a.type}, {b.type}>", shared, overlaps=True), n_stages

    def _few_products(self, name: str, tiles: int, splits: int, arguments: tuple[Any, ...]) -> Launch:
        """Launch a kernel of matmul.cu. Tokens are taken eight at a time, up to four times: {} in its name."""

        def launch(n: int) -> None:
            times = 1 if n <= 8 else 2 if n <= 16 else 4
            chunks = splits * 2 * 8 * times * 2 * 256  # two for each split, of halves
            sums = splits * 8 * times * (_MATMUL_ROWS + 1) * 4
            kernel = self._device.kernel(name.format(times), max(chunks, sums))
            kernel((tiles,), 128 * splits, arguments)

        return launch

    def _many_products(self, matrices: Sequence[Matrix], x: Rows, out: Rows, add: bool) -> Launch:
        """Multiply with quantised weights; or unpack as many rows as there is room for, multiply, and so on."""
        if self._prompts.takes(matrices):
            return self._prompts.products(matrices, x, out, add)
        self._to.many_as_graph = False
        columns, scratch = matrices[0].n_columns, self._to.space.scratch["halves"]
        room = up(scratch.n_bytes // (2 * columns) - TILE_ROWS + 1, TILE_ROWS)
        unpack = {matrix.type: self._device.kernel(f"dequantise<{matrix.type}>") for matrix in matrices}
        parts: list[tuple[list[Any], int, int]] = []  # (unpackings, first column of the result, rows)
        unpackings: list[Any] = []
        first = filled = 0
        for matrix in matrices:
            start = 0
            while start < matrix.n_rows:
                n_rows = min(matrix.n_rows - start, (room - filled) // TILE_ROWS * TILE_ROWS)
                if not n_rows:
                    parts.append((unpackings, first, filled))
                    unpackings, first, filled = [], first + filled, 0
                    continue
                arguments = (
                    matrix.memory.address, matrix.n_tiles, start // TILE_ROWS * matrix.n_steps, matrix.n_steps, n_rows,
                    scratch.address + 2 * columns * filled, columns, columns,
                )  # fmt: skip
                grid = (tiles_of(tiles_of(n_rows, TILE_ROWS) * matrix.n_steps, 4),)
                unpackings.append((unpack[matrix.type], grid, arguments))
                start, filled = start + n_rows, filled + n_rows
        if filled:
            parts.append((unpackings, first, filled))

        def launch(n: int) -> None:
            for unpackings, column, n_rows in parts:
                for kernel, grid, arguments in unpackings:
                    kernel(grid, 128, arguments)
                self._device.multiply(scratch.address, n_rows, x.at, columns, n, out.at + 4 * column, out.stride, add)

        return launch

    def _token(self, op: Linear) -> Token:
        return self._to.norms.get(op.x.number, Token(self._to.rows[op.x.number].at))

    def _halves(self, op: Linear) -> Rows:
        x = self._to.rows[op.x.number]
        if not x.halves:
            raise PlanError(f"{describe(op)}: its input is no norm, attention or gate; not on the GPU yet")
        if n_columns(op.weight) != x.stride:
            raise PlanError(f"tensor {op.weight.name} of {op.weight.shape[1]} columns: not on the GPU yet")
        return x

    def _bias(self, linears: Sequence[Linear]) -> int:
        if not any(op.bias for op in linears):
            return 0
        parts = [floats(op.bias) if op.bias else np.zeros(op.out.size, np.float32) for op in linears]
        name = linears[0].weight.name + ".bias"
        self._to.space.vectors[name] = upload_vector(self._device, np.concatenate(parts))
        return self._to.space.vectors[name].address


def _token_bytes(a: Matrix, b: Matrix) -> int:
    """Bytes of shared memory for the numbers of a token (matvec.cu, Numbers): zeros, bytes, halves, scales and sums."""
    halves = [matrix.type == "F16" for matrix in (a, b)]
    return 256 + a.n_columns * 2 * (any(halves) + (not all(halves))) + a.n_columns // 32 + a.n_columns // 4

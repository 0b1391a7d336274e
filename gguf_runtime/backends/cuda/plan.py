"""From a graph to the GPU's launches: two lists of them, for batches of few tokens and of many.

Few tokens: products straight from quantised weights, with what stands beside them fused in; the list is captured as
one CUDA graph. Many: weights are unpacked to halves, a part at a time, and multiplied by cuBLAS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ...cache import PageLayout
from ...graph import Add, Embed, Graph, Input, Linear, Norm, Pick, SwiGlu
from ...kernels.layout import head_bytes
from ...loader import Tensor
from ..plan import PlanError
from .device import CudaDevice, Launch, Memory
from .fuse import AddedProduct, Attend, Fused, Gate, Plain, Products, Rows, fuse, place
from .inputs import Inputs
from .weights import Matrix, floats, matrix_type, n_columns, upload_matrix, upload_vector

FEW = 32  # tokens at most for which weights are used as they lie
MAX_LOGITS = 128  # rows of logits in one pass: with a large vocabulary they are the largest of all values
_SPANS, _FEWEST_SPANS = 32, 4  # of a context, on which attention works at once
_UNPACKED = 128 << 20  # bytes of weights as halves at a time
_TILE_ROWS, _LINEAR_THREADS, _ATTENTION_THREADS = 16, 256, 128  # as in linear.cu and attention.cu
_LOG2_E = 1.4426950408889634


def spans(n_tokens: int) -> int:
    """How many parts of a context are worked on at once, for so many tokens."""
    return max(_FEWEST_SPANS, _SPANS // n_tokens)


def workspace(graph: Graph, n_ubatch: int) -> int:
    """Bytes that a plan takes beside weights and cache."""
    fused = fuse(graph.ops)
    return place(fused, max(n_ubatch, FEW), MAX_LOGITS)[1] + sum(_scratch(fused, max(n_ubatch, FEW)).values())


def _scratch(fused: Sequence[Fused], n_rows: int) -> dict[str, int]:
    """Bytes of memory that operations use while they run, by its purpose."""
    sizes = {"halves": 0, "gate": 0, "queries": 0, "partials": 0, "states": 0}

    def need(purpose: str, n_bytes: int) -> None:
        sizes[purpose] = max(sizes[purpose], n_bytes)

    most = max(FEW * _FEWEST_SPANS, _SPANS)  # tokens × spans
    for item in fused:
        for linears in _matrices(item):
            columns = n_columns(linears[0].weight)
            need("halves", min(2 * columns * sum(op.weight.shape[0] for op in linears), max(_UNPACKED, 2 * columns)))
        if isinstance(item, Gate):
            need("gate", n_rows * 8 * item.out.width)
        if isinstance(item, Attend):
            op = item.op
            k_dim, v_dim = op.q.width // op.n_heads, op.v.width // op.n_kv_heads
            need("queries", n_rows * op.n_heads * 2 * _up(k_dim, 16))
            need("partials", most * op.n_heads * 4 * _up(v_dim, 16))
            need("states", most * op.n_heads * 8)
    return sizes


def _matrices(item: Fused) -> list[list[Linear]]:
    """The products of an item, those of one type together: each list is one matrix on the GPU."""
    linears: Iterable[Linear] = ()
    if isinstance(item, Products):
        linears = item.linears
    elif isinstance(item, AddedProduct):
        linears = (item.linear,)
    elif isinstance(item, Gate):
        return [[item.gate], [item.up]]
    return [list(run) for _, run in groupby(linears, lambda op: matrix_type(op.weight))]


class Plan:
    """`few` and `many`: what to launch, in order, for a batch. `input`, `result`: rows of what comes and goes."""

    def __init__(self, graph: Graph, device: CudaDevice, layout: PageLayout, inputs: Inputs, n_ubatch: int) -> None:
        self._device, self._layout, self._in = device, layout, inputs
        fused, n_rows = fuse(graph.ops), max(n_ubatch, FEW)
        rows, n_bytes = place(fused, n_rows, MAX_LOGITS)
        self._memory = device.allocate(n_bytes)
        self._rows = {number: row._replace(at=row.at + self._memory.address) for number, row in rows.items()}
        self._scratch = {purpose: device.allocate(size) for purpose, size in _scratch(fused, n_rows).items()}
        self._vectors: dict[str | int, Memory] = {}
        self.few: list[Launch] = []
        self.many: list[Launch] = []
        self._n_logits = self._n_tasks = 0  # of a batch of many tokens; n_tasks: attention's
        for item in fused:
            self._write(item)
        first = graph.ops[0]
        self.input = self._rows[first.out.number] if isinstance(first, Input) else None
        self.result = self._rows[graph.result.number]

    def _write(self, item: Fused) -> None:
        if isinstance(item, Products):
            out = self._rows[item.makes[0].number]
            self._products(_matrices(item), item.linears, out, self._count(item.linears[0].x.picked), add=False)
        elif isinstance(item, AddedProduct):
            out = self._rows[item.out.number]
            self._products(_matrices(item), (item.linear,), out, self._count(item.out.picked), add=True)
        elif isinstance(item, Gate):
            self._gate(item)
        elif isinstance(item, Attend):
            self._attend(item)
        elif isinstance(item, Plain):
            self._plain(item)

    def run_many(self, n: int, n_logits: int, n_tasks: int) -> None:
        """Launch `many` for n tokens; n_tasks: of attention."""
        self._n_logits, self._n_tasks = n_logits, n_tasks
        for launch in self.many:
            launch(n)

    def _both(self, launch: Launch, picked: bool = False) -> None:
        self.few.append(launch)
        self.many.append((lambda n: self._n_logits and launch(self._n_logits)) if picked else launch)

    def _count(self, picked: bool) -> int:
        return self._in.n_logits if picked else self._in.n_tokens

    def _vector(self, tensor: Tensor) -> int:
        """Address of a vector of weights, f32."""
        if tensor.name not in self._vectors:
            self._vectors[tensor.name] = upload_vector(self._device, floats(tensor))
        return self._vectors[tensor.name].address

    # --- products -------------------------------------------------------------------------------

    def _products(
        self, groups: list[list[Linear]], linears: Sequence[Linear], out: Rows, count: int, *, add: bool
    ) -> None:
        x, picked = self._halves(linears[0]), linears[0].x.picked
        matrices = [upload_matrix(self._device, [op.weight for op in group]) for group in groups]
        bias = self._bias(linears)
        column = 0
        for i in range(0, len(matrices), 2):  # a kernel takes two types at once
            pair = matrices[i : i + 2]
            self.few.append(self._few_products(pair, x, out, column, count, bias, add))
            column += sum(matrix.n_rows for matrix in pair)
        self.many.append(self._many_products(matrices, x, out, add, picked))
        if bias:
            kernel, width = self._device.kernel("add"), column

            def add_bias(n: int) -> None:
                if n := self._n_logits if picked else n:
                    kernel((_up(width, 256) // 256, n), 256, (out.at, bias, 0, out.at, width))

            self.many.append(add_bias)

    def _few_products(
        self, pair: list[Matrix], x: Rows, out: Rows, column: int, count: int, bias: int, add: bool
    ) -> Launch:
        a, b = pair[0], pair[-1]
        b_rows = b.n_rows if len(pair) > 1 else 0
        tiles = _up(a.n_rows, _TILE_ROWS) // _TILE_ROWS + _up(b_rows, _TILE_ROWS) // _TILE_ROWS
        arguments = (
            a.memory.address, a.n_rows, b.memory.address, b_rows, a.n_columns, x.at, x.stride, count,
            out.at + 4 * column, out.stride, bias + 4 * column if bias else 0, int(add),
        )  # fmt: skip
        kernel = self._by_tokens(lambda nt: f"linear<{a.type}, {b.type}, {nt}>")
        return lambda n: kernel(n)((tiles,), _LINEAR_THREADS, arguments)

    def _many_products(self, matrices: list[Matrix], x: Rows, out: Rows, add: bool, picked: bool) -> Launch:
        """Unpack as many rows as there is room for, multiply, and so on."""
        columns, scratch = matrices[0].n_columns, self._scratch["halves"]
        room = scratch.n_bytes // (2 * columns)
        unpack = {matrix.type: self._device.kernel(f"dequantise<{matrix.type}>") for matrix in matrices}
        parts: list[tuple[list[Any], int, int]] = []  # (unpackings, first column of the result, rows)
        unpackings: list[Any] = []
        first = filled = 0
        for matrix in matrices:
            start = 0
            while start < matrix.n_rows:
                n_rows = min(matrix.n_rows - start, room - filled)
                units = columns // matrix.format.unit
                arguments = (
                    matrix.memory.address, matrix.n_blocks, start * units, n_rows * units,
                    scratch.address + 2 * columns * filled,
                )  # fmt: skip
                unpackings.append((unpack[matrix.type], (_up(n_rows * units, 256) // 256,), arguments))
                start, filled = start + n_rows, filled + n_rows
                if filled == room:
                    parts.append((unpackings, first, filled))
                    unpackings, first, filled = [], first + filled, 0
        if filled:
            parts.append((unpackings, first, filled))

        def launch(n: int) -> None:
            n = self._n_logits if picked else n
            for unpackings, column, n_rows in parts if n else ():
                for kernel, grid, arguments in unpackings:
                    kernel(grid, 256, arguments)
                self._device.multiply(
                    scratch.address, n_rows, x.at, columns, n, out.at + 4 * column, out.stride, add
                )

        return launch

    def _gate(self, item: Gate) -> None:
        x, out, width, device = self._halves(item.gate), self._rows[item.out.number], item.out.width, self._device
        gate, up = (upload_matrix(device, [op.weight]) for op in (item.gate, item.up))
        arguments = (
            gate.memory.address, up.memory.address, gate.n_rows, gate.n_columns, x.at, x.stride, self._in.n_tokens,
            out.at, out.stride,
        )  # fmt: skip
        kernel = self._by_tokens(lambda nt: f"swiglu<{gate.type}, {up.type}, {nt}>")
        tiles = _up(gate.n_rows, _TILE_ROWS) // _TILE_ROWS
        self.few.append(lambda n: kernel(n)((tiles,), _LINEAR_THREADS, arguments))

        both = Rows(self._scratch["gate"].address, 2 * width, False)
        self.many.append(self._many_products([gate, up], x, both, add=False, picked=False))
        activate = device.kernel("activate")
        rest = both.at, both.at + 4 * width, both.stride, out.at, width, out.stride
        self.many.append(lambda n: activate((_up(width, 256) // 256, n), 256, rest))

    def _halves(self, op: Linear) -> Rows:
        x = self._rows[op.x.number]
        if not x.halves:
            raise PlanError(f"the input of {op.weight.name} is no norm, attention or activation: not on the GPU yet")
        if n_columns(op.weight) != x.stride:
            raise PlanError(f"tensor {op.weight.name} of {op.weight.shape[1]} columns: not on the GPU yet")
        return x

    def _bias(self, linears: Sequence[Linear]) -> int:
        if not any(op.bias for op in linears):
            return 0
        parts = [floats(op.bias) if op.bias else np.zeros(op.out.width, np.float32) for op in linears]
        name = linears[0].weight.name + ".bias"
        self._vectors[name] = upload_vector(self._device, np.concatenate(parts))
        return self._vectors[name].address

    def _by_tokens(self, name: Any) -> Any:
        """n → the kernel for n tokens: they are taken eight at a time, up to four times."""
        return lambda n: self._device.kernel(name(1 if n <= 8 else 2 if n <= 16 else 4))

    # --- attention ------------------------------------------------------------------------------

    def _attend(self, item: Attend) -> None:
        op, layout, inputs, device = item.op, self._layout, self._in, self._device
        if layout.k_type != "f16" or layout.v_type != "f16":
            raise PlanError("the GPU keeps keys and values as f16 only: leave -ctk and -ctv out, or -ngl")
        q, k, v, out = (self._rows[value.number] for value in (item.q, item.k, op.v, op.out))
        k_dim, v_dim = op.q.width // op.n_heads, op.v.width // op.n_kv_heads
        k_width, v_width, group = _up(k_dim, 16), _up(v_dim, 16), op.n_heads // op.n_kv_heads
        k_offset, v_offset = layout.k_offset[op.layer], layout.v_offset[op.layer]
        assert head_bytes("f16", k_dim) == 128 * k_width
        queries, partials, states = (self._scratch[name].address for name in ("queries", "partials", "states"))

        n_pairs, frequencies, magnitude, neighbours = 0, 0, 1.0, 0
        if item.rope:
            turn = item.rope.frequencies
            n_pairs, magnitude, neighbours = len(turn.frequencies), turn.magnitude, int(turn.layout == "pairs")
            if id(turn) not in self._vectors:
                self._vectors[id(turn)] = upload_vector(device, turn.frequencies.astype(np.float64))
            frequencies = self._vectors[id(turn)].address
        rotate = device.kernel("rotate_and_save", 8 * max(n_pairs, 1))
        saved = (
            q.at, q.stride, k.at, k.stride, v.at, v.stride, frequencies, n_pairs, np.float32(magnitude), neighbours,
            np.float32(op.scale * _LOG2_E), queries, op.n_heads, op.n_kv_heads, k_dim, k_width, v_dim, v_width,
            k_offset, v_offset, inputs.n_tokens, inputs.tokens, inputs.tables,
        )  # fmt: skip
        self._both(lambda n: rotate((n,), 256, saved))

        def shared(n_keys: int, n_warps: int) -> Iterator[tuple[int, int]]:
            """(stages, bytes of shared memory) of a kernel whose stage holds n_keys for each of n_warps."""
            for stages in (3, 2, 1):
                yield stages, 2 * stages * n_warps * (k_width * (n_keys + 8) + n_keys * (v_width + 8))

        fits = [s for s in shared(16, 4) if s[1] <= min(device.max_shared, 112 << 10)]
        most = [s for s in shared(64, 1) if s[1] <= min(device.max_shared, 112 << 10) and s[0] < 3]
        if not fits or not most:
            raise PlanError(f"attention heads of {k_dim} dimensions: too large for this GPU")
        attend_one = device.kernel(f"attend_one<{k_width}, {v_width}, {fits[0][0]}>", fits[0][1])
        attend_many = device.kernel(f"attend_many<{k_width}, {v_width}, {most[0][0]}>", most[0][1])
        merge = device.kernel("merge")
        tiles = op.n_kv_heads * (_up(group, _TILE_ROWS) // _TILE_ROWS)
        cache = k_offset, v_offset

        def few(n: int) -> None:
            one = queries, partials, states, op.n_heads, group, op.window, *cache, inputs.n_tokens, inputs.tokens
            attend_one((tiles, spans(n), n), _ATTENTION_THREADS, (*one, inputs.tables))
            joined = partials, states, spans(n), op.window, out.at, v_dim, out.stride, inputs.n_tokens, inputs.tokens
            merge((op.n_heads, n), v_width, joined)

        many = (
            queries, out.at, out.stride, v_dim, op.n_heads, group, op.window, *cache, inputs.tasks, inputs.tokens,
            inputs.tables,
        )  # fmt: skip
        self.few.append(few)
        self.many.append(lambda n: attend_many((self._n_tasks, op.n_kv_heads), _ATTENTION_THREADS, many))

    # --- the rest -------------------------------------------------------------------------------

    def _plain(self, item: Plain) -> None:
        op, device = item.op, self._device
        out, width = self._rows[op.out.number], op.out.width
        rest: tuple[Any, ...]
        if isinstance(op, Embed):
            self._embed(op, out)
        elif isinstance(op, Norm):
            x, kernel = self._rows[op.x.number], device.kernel("rms_norm")
            if x.halves or width % 4:
                raise PlanError(f"a norm over {width} columns: not on the GPU yet")
            weight, count = self._vector(op.weight), self._count(op.x.picked)
            rest = x.at, weight, out.at, width, out.stride, np.float32(op.eps), count
            self._both(lambda n: kernel((n,), 512, rest), op.x.picked)
        elif isinstance(op, SwiGlu):
            a, b, kernel = self._rows[op.gate.number], self._rows[op.up.number], device.kernel("activate")
            if a.stride != b.stride or a.halves or b.halves:
                raise PlanError("an activation of values that do not lie side by side: not on the GPU yet")
            rest = a.at, b.at, a.stride, out.at, width, out.stride
            self._both(lambda n: kernel((_up(width, 256) // 256, n), 256, rest), op.out.picked)
        elif isinstance(op, Add):
            a, b, kernel = self._rows[op.a.number], self._rows[op.b.number], device.kernel("add")
            if a.halves or b.halves or a.stride != width:
                raise PlanError("a sum of values other than results of products: not on the GPU yet")
            rest = a.at, b.at, b.stride, out.at, width
            self._both(lambda n: kernel((_up(width, 256) // 256, n), 256, rest), op.out.picked)
        elif isinstance(op, Pick):
            x, kernel = self._rows[op.x.number], device.kernel("gather")
            rest = x.at, self._in.rows, out.at, width, self._in.n_logits
            self._both(lambda n: kernel((n,), 256, rest), picked=True)

    def _embed(self, op: Embed, out: Rows) -> None:
        from ...kernels.cuda.formats import FORMATS

        kind, columns = matrix_type(op.table), n_columns(op.table)
        form, kernel = FORMATS[kind], self._device.kernel(f"embed<{matrix_type(op.table)}>")
        if columns != op.out.width:
            raise PlanError(f"an embedding of {op.out.width} columns: not on the GPU yet")

        def launch(n: int) -> None:
            units = n * columns // form.unit
            arguments = self._in.rows_of_embedding, n * columns // form.columns, 0, units, out.at
            kernel((_up(units, 256) // 256,), 256, arguments)

        self._both(launch)


def _up(n: int, to: int) -> int:
    """n, rounded up to a multiple."""
    return -(-n // to) * to

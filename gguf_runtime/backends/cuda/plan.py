"""From a graph to the GPU's launches: three lists of them, for batches of one token, of few and of many.

One token: products straight from quantised weights, with norms, activations and sums fused in. Few: the same, but
norms for themselves. These lists are captured as CUDA graphs. Many: weights are unpacked to halves, a part at a time,
and multiplied by cuBLAS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from ...cache import PageLayout
from ...graph import Add, Embed, Graph, Input, Linear, Norm, Pick, RopeFrequencies, SwiGlu
from ...kernels.cuda.formats import FORMATS, TILE_ROWS
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
_AHEAD = 4 << 20  # bytes of the next weights that a kernel asks for
_MATVEC_ROWS, _MATMUL_ROWS, _THREADS = 16, 64, 512  # as in matvec.cu and matmul.cu
_HEAD_ROWS, _ATTENTION_THREADS = 16, 128  # as in attention.cu
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
    sizes = {"halves": 0, "gate": 0, "queries": 0, "sums": 0, "states": 0, "done": 0}

    def need(purpose: str, n_bytes: int) -> None:
        sizes[purpose] = max(sizes[purpose], n_bytes)

    most = max(FEW * _FEWEST_SPANS, _SPANS)  # tokens × spans
    for item in fused:
        for linears in _matrices(item):
            columns = n_columns(linears[0].weight)
            rows = sum(_up(op.weight.shape[0], TILE_ROWS) for op in linears)
            need("halves", 2 * columns * min(rows, max(_UNPACKED // (2 * columns), TILE_ROWS)))
        if isinstance(item, Gate):
            need("gate", n_rows * 8 * item.out.width)
        if isinstance(item, Attend):
            op = item.op
            k_dim, v_dim = op.q.width // op.n_heads, op.v.width // op.n_kv_heads
            need("queries", n_rows * op.n_heads * 2 * _up(k_dim, 16))
            need("sums", most * op.n_heads * 4 * _up(v_dim, 16))
            need("states", most * op.n_heads * 8)
            need("done", FEW * op.n_heads * 4)
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


class _Token(NamedTuple):
    """What a product of one token reads: halves, or f32 of which it makes the norm itself."""

    x: int
    weight: int = 0  # of the norm
    eps: float = 0.0


class Plan:
    """`one`, `few`, `many`: what to launch, in order, for a batch. `input`, `result`: rows of what comes and goes."""

    def __init__(self, graph: Graph, device: CudaDevice, layout: PageLayout, inputs: Inputs, n_ubatch: int) -> None:
        self._device, self._layout, self._in = device, layout, inputs
        fused, n_rows = fuse(graph.ops), max(n_ubatch, FEW)
        rows, n_bytes = place(fused, n_rows, MAX_LOGITS)
        self._memory, self._n_rows = device.allocate(n_bytes), n_rows
        self._rows = {number: row._replace(at=row.at + self._memory.address) for number, row in rows.items()}
        self._scratch = {purpose: device.allocate(size) for purpose, size in _scratch(fused, n_rows).items()}
        self._vectors: dict[str | int, Memory] = {}
        self._angles: dict[int, Memory] = {}
        self._made_by_reader = _norms_made_by_readers(fused)
        self._norms: dict[int, _Token] = {}
        self._weights: list[tuple[Matrix, Matrix | None]] = []  # that kernels for one token read, in order
        self._n_logits = self._n_tasks = 0  # of a batch of many tokens; n_tasks: attention's
        self.one: list[Launch] = []
        self.few: list[Launch] = []
        self.many: list[Launch] = []
        for item in fused:
            self._write(item)
        first = graph.ops[0]
        self.input = self._rows[first.out.number] if isinstance(first, Input) else None
        self.result = self._rows[graph.result.number]

    def run_many(self, n: int, n_logits: int, n_tasks: int) -> None:
        """Launch `many` for n tokens; n_tasks: of attention."""
        self._n_logits, self._n_tasks = n_logits, n_tasks
        for launch in self.many:
            launch(n)

    def _write(self, item: Fused) -> None:
        if isinstance(item, Products):
            self._products(item, item.linears, self._rows[item.makes[0].number], add=False)
        elif isinstance(item, AddedProduct):
            self._products(item, (item.linear,), self._rows[item.out.number], add=True)
        elif isinstance(item, Gate):
            self._gate(item)
        elif isinstance(item, Attend):
            self._attend(item)
        elif isinstance(item, Plain):
            self._plain(item)

    def _all(self, launch: Launch, picked: bool = False) -> None:
        """Launch this in any batch; picked: for the tokens whose logits are wanted."""
        self.one.append(launch)
        self._batches(launch, picked)

    def _batches(self, launch: Launch, picked: bool = False) -> None:
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

    def _products(self, item: Fused, linears: Sequence[Linear], out: Rows, *, add: bool) -> None:
        x, picked, count = self._halves(linears[0]), linears[0].x.picked, self._count(linears[0].x.picked)
        matrices = [upload_matrix(self._device, [op.weight for op in group]) for group in _matrices(item)]
        bias = self._bias(linears)
        column = 0
        for i in range(0, len(matrices), 2):  # a kernel takes two types at once
            a, b = matrices[i], (matrices[i + 1] if i + 1 < len(matrices) else None)
            to, offset = out.at + 4 * column, bias and bias + 4 * column
            self._one_product(a, b, self._token(linears[0]), to, count, offset, add)
            b_rows = b.n_rows if b else 0
            tiles = _tiles(a.n_rows, _MATMUL_ROWS) + _tiles(b_rows, _MATMUL_ROWS)
            arguments = (
                a.memory.address, a.n_rows, (b or a).memory.address, b_rows, a.n_columns, x.at, x.stride, count,
                to, out.stride, offset, int(add),
            )  # fmt: skip
            # few tiles: more threads to each, where there is shared memory for them
            splits = 4 if tiles <= self._device.n_processors and self._device.max_shared >= 128 << 10 else 2
            name = f"matmul<{a.type}, {(b or a).type}, {{}}, {splits}>"
            self.few.append(self._few_products(name, tiles, splits, arguments))
            column += a.n_rows + b_rows
        self.many.append(self._many_products(matrices, x, out, add, picked))
        if bias:
            kernel, width = self._device.kernel("add"), column

            def add_bias(n: int) -> None:
                if n := self._n_logits if picked else n:
                    kernel((_tiles(width, 256), n), 256, (out.at, bias, 0, out.at, width))

            self.many.append(add_bias)

    def _gate(self, item: Gate) -> None:
        x, out, width, device = self._halves(item.gate), self._rows[item.out.number], item.out.width, self._device
        gate, up = (upload_matrix(device, [op.weight]) for op in (item.gate, item.up))
        self._one_gate(gate, up, self._token(item.gate), out.at)
        arguments = (
            gate.memory.address, up.memory.address, gate.n_rows, gate.n_columns, x.at, x.stride, self._in.n_tokens,
            out.at, out.stride,
        )  # fmt: skip
        name, tiles = f"matmul_gate<{gate.type}, {up.type}, {{}}>", _tiles(gate.n_rows, _MATMUL_ROWS)
        self.few.append(self._few_products(name, tiles, 2, arguments))

        both = Rows(self._scratch["gate"].address, 2 * width, False)
        self.many.append(self._many_products([gate, up], x, both, add=False, picked=False))
        self.many.append(self._activation(both.at, both.at + 4 * width, both.stride, out, width))

    def _one_product(
        self, a: Matrix, b: Matrix | None, token: _Token, out: int, count: int, bias: int, add: bool
    ) -> None:
        """One token: a kernel for the rows of a and of b, that makes the norm before, and adds to what is there."""
        kernel = self._device.kernel(f"matvec<{a.type}, {(b or a).type}>", _token_bytes(a.n_columns))
        tiles = _tiles(a.n_rows, _MATVEC_ROWS) + (_tiles(b.n_rows, _MATVEC_ROWS) if b else 0)
        grid = (min(tiles, self._device.n_processors),)
        arguments = (
            a.memory.address, a.n_rows, (b or a).memory.address, b.n_rows if b else 0, a.n_columns, token.x,
            token.weight, np.float32(token.eps), count, out, bias, int(add),
        )  # fmt: skip
        self._weights.append((a, b))
        following = len(self._weights)
        self.one.append(lambda n: kernel(grid, _THREADS, (*arguments, *self._ahead(following))))

    def _one_gate(self, gate: Matrix, up: Matrix, token: _Token, out: int) -> None:
        kernel = self._device.kernel(f"matvec_gate<{gate.type}, {up.type}>", _token_bytes(gate.n_columns))
        grid = (min(_tiles(gate.n_rows, _MATVEC_ROWS), self._device.n_processors),)
        arguments = (
            gate.memory.address, up.memory.address, gate.n_rows, gate.n_columns, token.x, token.weight,
            np.float32(token.eps), out,
        )  # fmt: skip
        self._weights.append((gate, up))
        following = len(self._weights)
        self.one.append(lambda n: kernel(grid, _THREADS, (*arguments, *self._ahead(following))))

    def _ahead(self, i: int) -> tuple[int, int, int]:
        """The beginning of weights number i, two matrices, to be asked for; after the last come the first."""
        a, b = self._weights[i % len(self._weights)]
        n_bytes = min(_AHEAD // (2 if b else 1), a.memory.n_bytes, b.memory.n_bytes if b else _AHEAD)
        return a.memory.address, b.memory.address if b else 0, n_bytes

    def _few_products(self, name: str, tiles: int, splits: int, arguments: tuple[Any, ...]) -> Launch:
        """Launch a kernel of matmul.cu. Tokens are taken eight at a time, up to four times: {} in its name."""

        def launch(n: int) -> None:
            times = 1 if n <= 8 else 2 if n <= 16 else 4
            chunks = splits * 2 * 8 * times * 2 * 256  # two for each split, of halves
            sums = splits * 8 * times * (_MATMUL_ROWS + 1) * 4
            kernel = self._device.kernel(name.format(times), max(chunks, sums))
            kernel((tiles,), 128 * splits, arguments)

        return launch

    def _many_products(self, matrices: list[Matrix], x: Rows, out: Rows, add: bool, picked: bool) -> Launch:
        """Unpack as many rows as there is room for, multiply, and so on."""
        columns, scratch = matrices[0].n_columns, self._scratch["halves"]
        room = _up(scratch.n_bytes // (2 * columns) - TILE_ROWS + 1, TILE_ROWS)
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
                grid = (_tiles(_tiles(n_rows, TILE_ROWS) * matrix.n_steps, 4),)
                unpackings.append((unpack[matrix.type], grid, arguments))
                start, filled = start + n_rows, filled + n_rows
        if filled:
            parts.append((unpackings, first, filled))

        def launch(n: int) -> None:
            n = self._n_logits if picked else n
            for unpackings, column, n_rows in parts if n else ():
                for kernel, grid, arguments in unpackings:
                    kernel(grid, 128, arguments)
                self._device.multiply(scratch.address, n_rows, x.at, columns, n, out.at + 4 * column, out.stride, add)

        return launch

    def _token(self, op: Linear) -> _Token:
        return self._norms.get(op.x.number, _Token(self._rows[op.x.number].at))

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

    # --- attention ------------------------------------------------------------------------------

    def _attend(self, item: Attend) -> None:
        op, layout, inputs, device = item.op, self._layout, self._in, self._device
        if layout.k_type != "f16" or layout.v_type != "f16":
            raise PlanError("the GPU keeps keys and values as f16 only: leave -ctk and -ctv out, or -ngl")
        q, k, v, out = (self._rows[value.number] for value in (item.q, item.k, op.v, op.out))
        if not q.stride == k.stride == v.stride:
            raise PlanError("queries, keys and values that are not products of one value: not on the GPU yet")
        k_dim, v_dim = op.q.width // op.n_heads, op.v.width // op.n_kv_heads
        k_width, v_width, group = _up(k_dim, 16), _up(v_dim, 16), op.n_heads // op.n_kv_heads
        cache = layout.k_offset[op.layer], layout.v_offset[op.layer]
        assert head_bytes("f16", k_dim) == 128 * k_width
        queries, sums, states, done = (self._scratch[name].address for name in ("queries", "sums", "states", "done"))
        scale, batch = np.float32(op.scale * _LOG2_E), (inputs.n_tokens, inputs.tokens, inputs.tables)
        turns = self._turns(item.rope.frequencies) if item.rope else 0
        n_pairs, neighbours = 0, 0
        if item.rope:
            n_pairs = len(item.rope.frequencies.frequencies)
            neighbours = int(item.rope.frequencies.layout == "pairs")

        stage = 2 * 4 * (k_width * 24 + 16 * (v_width + 8))  # bytes of 16 keys and values for each of four warps
        page = 2 * (k_width * 72 + 64 * (v_width + 8))
        stages = max((n for n in (1, 2, 3) if n * stage <= min(device.max_shared, 112 << 10)), default=0)
        pages = max((n for n in (1, 2) if n * page <= min(device.max_shared, 112 << 10)), default=0)
        if not stages or not pages:
            raise PlanError(f"attention heads of {k_dim} dimensions: too large for this GPU")
        attend_one = device.kernel(f"attend_one<{k_width}, {v_width}, {stages}>", stages * stage)
        attend_many = device.kernel(f"attend_many<{k_width}, {v_width}, {pages}>", pages * page)
        rotate = device.kernel("rotate_and_save")

        saved = (
            q.at, k.at, v.at, q.stride, turns, n_pairs, neighbours, scale, queries, op.n_heads, op.n_kv_heads, k_dim,
            k_width, v_dim, v_width, *cache, *batch,
        )  # fmt: skip
        parts = _tiles((op.n_heads + op.n_kv_heads) * (k_dim // 2) + op.n_kv_heads * v_dim, 256)
        tiles = op.n_kv_heads * _tiles(group, _HEAD_ROWS)
        rest = out.at, out.stride, v_dim, sums, states, done, op.n_heads, group, op.window, *cache, *batch
        alone = (q.at, k.at, v.at, turns, n_pairs, neighbours, scale, k_dim, *rest)
        together = (queries, 0, 0, 0, 0, 0, scale, k_dim, *rest, 0, 0, 0)
        many = (
            queries, out.at, out.stride, v_dim, op.n_heads, group, op.window, *cache, inputs.tasks, inputs.tokens,
            inputs.tables,
        )  # fmt: skip
        following = len(self._weights)

        def save(n: int) -> None:
            rotate((parts, n), 256, saved)

        def few(n: int) -> None:
            attend_one((tiles, spans(n), n), _ATTENTION_THREADS, together)

        if turns:
            self.one.append(
                lambda n: attend_one((tiles, spans(1), 1), _ATTENTION_THREADS, (*alone, *self._ahead(following)))
            )
        else:
            self.one += [save, few]
        self._batches(save)
        self.few.append(few)
        self.many.append(lambda n: attend_many((self._n_tasks, op.n_kv_heads), _ATTENTION_THREADS, many))

    def _turns(self, rope: RopeFrequencies) -> int:
        """Address of the tokens' (cos, sin), which are made once for all layers that rotate alike."""
        if id(rope) not in self._angles:
            n_pairs, device = len(rope.frequencies), self._device
            self._angles[id(rope)] = device.allocate(8 * n_pairs * self._n_rows)
            self._vectors[id(rope)] = upload_vector(device, rope.frequencies.astype(np.float64))
            kernel, magnitude = device.kernel("angles"), np.float32(rope.magnitude)
            frequencies, out = self._vectors[id(rope)].address, self._angles[id(rope)].address
            arguments = frequencies, n_pairs, magnitude, out, self._in.n_tokens, self._in.tokens
            self._all(lambda n: kernel((n,), 64, arguments))
        return self._angles[id(rope)].address

    # --- the rest -------------------------------------------------------------------------------

    def _plain(self, item: Plain) -> None:
        op, device = item.op, self._device
        out, width = self._rows[op.out.number], op.out.width
        arguments: tuple[Any, ...]
        if isinstance(op, Embed):
            self._embed(op, out)
        elif isinstance(op, Norm):
            self._norm(op, out)
        elif isinstance(op, SwiGlu):
            a, b = self._rows[op.gate.number], self._rows[op.up.number]
            if a.stride != b.stride or a.halves or b.halves:
                raise PlanError("an activation of values that do not lie side by side: not on the GPU yet")
            self._all(self._activation(a.at, b.at, a.stride, out, width), op.out.picked)
        elif isinstance(op, Add):
            a, b, add = self._rows[op.a.number], self._rows[op.b.number], device.kernel("add")
            if a.halves or b.halves or a.stride != width:
                raise PlanError("a sum of values other than results of products: not on the GPU yet")
            arguments = a.at, b.at, b.stride, out.at, width
            self._all(lambda n: add((_tiles(width, 256), n), 256, arguments), op.out.picked)
        elif isinstance(op, Pick):
            x, gather = self._rows[op.x.number], device.kernel("gather")
            arguments = x.at, self._in.rows, out.at, width, self._in.n_logits
            self._all(lambda n: gather((n,), 1024, arguments), picked=True)

    def _norm(self, op: Norm, out: Rows) -> None:
        x, weight, kernel = self._rows[op.x.number], self._vector(op.weight), self._device.kernel("rms_norm")
        if x.halves or op.out.width % 4:
            raise PlanError(f"a norm over {op.out.width} columns: not on the GPU yet")
        rest = x.at, weight, out.at, op.out.width, out.stride, np.float32(op.eps), self._count(op.x.picked)

        def launch(n: int) -> None:
            kernel((n,), 512, rest)

        if op.out.number in self._made_by_reader:
            self._norms[op.out.number] = _Token(x.at, weight, op.eps)
        else:
            self.one.append(launch)
        self._batches(launch, op.x.picked)

    def _activation(self, a: int, b: int, stride: int, out: Rows, width: int) -> Launch:
        kernel, rest = self._device.kernel("activate"), (a, b, stride, out.at, width, out.stride)
        if width % 4:
            raise PlanError(f"an activation of {width} columns: not on the GPU yet")
        return lambda n: kernel((_tiles(width, 1024), n), 256, rest)

    def _embed(self, op: Embed, out: Rows) -> None:
        kind, width = matrix_type(op.table), op.out.width
        kernel, n_steps = self._device.kernel(f"embed<{kind}>"), n_columns(op.table) // FORMATS[kind].step
        if width % 8:
            raise PlanError(f"an embedding of {width} columns: not on the GPU yet")

        def launch(n: int) -> None:
            n_tiles = _tiles(n, TILE_ROWS) * n_steps
            arguments = self._in.rows_of_embedding, n_tiles, 0, n_steps, n, out.at, width, width
            kernel((_tiles(n_tiles, 4),), 128, arguments)

        self._all(launch)


def _norms_made_by_readers(fused: Sequence[Fused]) -> set[int]:
    """Results of norms that only products read: for one token, each of them makes the norm itself."""
    made = {item.op.out.number for item in fused if isinstance(item, Plain) and isinstance(item.op, Norm)}
    for item in fused:
        for value in item.reads:
            if not isinstance(item, Products | Gate) or value.width % 128:
                made.discard(value.number)
    return made


def _token_bytes(n_columns: int) -> int:
    """Bytes of shared memory for the numbers of a token (matvec.cu, Numbers)."""
    return 2 * n_columns + 32 + 4 * (n_columns // 16)


def _up(n: int, to: int) -> int:
    """n, rounded up to a multiple."""
    return -(-n // to) * to


def _tiles(n: int, size: int) -> int:
    """How many tiles of a size it takes."""
    return -(-n // size)

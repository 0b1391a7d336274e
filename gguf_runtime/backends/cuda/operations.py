"""Each operation's launches on a GPU: a table, to which a new operation adds an entry.

What there is no kernel for is a PlanError that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...fusion import AddedProduct, Fused, GatedProduct, Products, RotatedAttention, Single
from ...kernels.cuda.formats import FORMATS, TILE_ROWS
from ...operations import Add, Embed, Gate, Input, Norm, Op, SelectRows, Value, View, describe
from ..errors import PlanError
from ..pages import PageLayout
from .attention import AttentionWriter
from .launches import Launches, Token
from .places import Rows
from .products import ProductWriter
from .sizes import tiles_of
from .weights import matrix_type, n_columns


class Writer:
    """Writes the launches of a graph's operations."""

    def __init__(self, fused: Sequence[Fused], to: Launches, layout: PageLayout) -> None:
        self.to, self.device = to, to.device
        self.products, self.attention = ProductWriter(to), AttentionWriter(to, layout)
        self.made_by_reader = _norms_made_by_readers(fused)

    def write(self, item: Fused) -> None:
        """Raises PlanError where the GPU has no kernel for an item."""
        key, op = (type(item.op), item.op) if isinstance(item, Single) else (type(item), item)
        if key not in _LAUNCHES:
            assert isinstance(item, Single)
            raise unknown(item.op)
        _LAUNCHES[key](self, op)

    def rows(self, value: Value) -> Rows:
        return self.to.rows[value.number]


def unknown(op: Op, why: str = "") -> PlanError:
    return PlanError(f"{describe(op)}: the GPU has no kernel for that{why} yet")


def _products(w: Writer, item: Products) -> None:
    w.products.products(item, item.linears, w.rows(item.makes[0]), add=False)


def _added(w: Writer, item: AddedProduct) -> None:
    w.products.products(item, (item.linear,), w.rows(item.out), add=True)


def _embed(w: Writer, op: Embed) -> None:
    kind, width, out = matrix_type(op.table), op.out.size, w.rows(op.out)
    kernel, n_steps = w.device.kernel(f"embed<{kind}>"), n_columns(op.table) // FORMATS[kind].step
    if width % 8 or op.scale != 1 or op.by != "token":
        raise unknown(op, f" of {width} columns, scaled or by position,")

    def launch(n: int) -> None:
        n_tiles = tiles_of(n, TILE_ROWS) * n_steps
        arguments = w.to.inputs.rows_of_embedding, n_tiles, 0, n_steps, n, out.at, width, width
        kernel((tiles_of(n_tiles, 4),), 128, arguments)

    w.to.all(launch)


def _norm(w: Writer, op: Norm) -> None:
    x, out, width = w.rows(op.x), w.rows(op.out), op.x.width
    if op.kind != "rms" or not op.weight or op.bias or op.weight.shape != (width,) or x.halves or width % 4:
        raise unknown(op, f" over {width} columns, other than RMS with one weight for each,")
    weight, eps, count = w.to.vector(op.weight), np.float32(op.eps), w.to.count(op.x)
    selected = op.out.rows == "selected"
    if op.x.heads > 1:
        heads, kernel = op.x.heads, w.device.kernel("head_norm")
        arguments: tuple[Any, ...] = x.at, x.stride, weight, out.at, out.stride, heads, width, eps, count
        w.to.all(lambda n: kernel((tiles_of(heads, 4), n), 128, arguments), selected)
        return
    kernel, rest = w.device.kernel("rms_norm"), (x.at, weight, out.at, width, out.stride, eps, count)
    if op.out.number in w.made_by_reader:
        w.to.norms[op.out.number] = Token(x.at, weight, op.eps)
    else:
        w.to.decode.append(lambda n: kernel((n,), 512, rest))
    w.to.batches(lambda n: kernel((n,), 512, rest), selected)


def _gate(w: Writer, op: Gate) -> None:
    a, b, out = w.rows(op.gate), w.rows(op.up), w.rows(op.out)
    if op.kind != "silu" or op.limit or a.stride != b.stride or a.halves or b.halves:
        raise unknown(op, " of values that do not lie side by side,")
    w.to.all(w.to.activation(a.at, b.at, a.stride, out, op.out.size), op.out.rows == "selected")


def _add(w: Writer, op: Add) -> None:
    a, b, out, width, add = w.rows(op.a), w.rows(op.b), w.rows(op.out), op.out.size, w.device.kernel("add")
    if a.halves or b.halves or a.stride != width or op.scale != 1 or op.a.size != op.b.size:
        raise unknown(op, " of values other than results of products")
    arguments = a.at, b.at, b.stride, out.at, width
    w.to.all(lambda n: add((tiles_of(width, 256), n), 256, arguments), op.out.rows == "selected")


def _select(w: Writer, op: SelectRows) -> None:
    x, out, gather = w.rows(op.x), w.rows(op.out), w.device.kernel("gather")
    arguments = x.at, w.to.inputs.rows, out.at, op.out.size, w.to.inputs.n_logits
    w.to.all(lambda n: gather((n,), 1024, arguments), selected=True)


def _norms_made_by_readers(fused: Sequence[Fused]) -> set[int]:
    """Results of norms that only products read: for one token, each of them makes the norm itself."""
    made = {
        item.op.out.number
        for item in fused
        if isinstance(item, Single) and isinstance(item.op, Norm) and item.op.x.heads == 1
    }
    for item in fused:
        for value in item.reads:
            if not isinstance(item, Products | GatedProduct) or value.size % 128:
                made.discard(value.number)
    return made


_LAUNCHES: dict[type[Any], Callable[[Writer, Any], None]] = {
    Input: lambda w, op: None,  # it is there
    View: lambda w, op: None,  # the same memory
    Embed: _embed,
    SelectRows: _select,
    Norm: _norm,
    Products: _products,
    AddedProduct: _added,
    GatedProduct: lambda w, item: w.products.gate(item),
    RotatedAttention: lambda w, item: w.attention.attend(item),
    Gate: _gate,
    Add: _add,
}

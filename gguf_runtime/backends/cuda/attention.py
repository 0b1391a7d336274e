"""Attention: keys and values into the cache, and the queries that meet them; the rotation before it, where fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...fusion import RotatedAttention
from ...kernels.layout import MOST_DISTANCE, PAGE
from ...operations import Attention, Rope
from ..biases import alibi_slopes, distance_buckets
from ..errors import PlanError
from ..floats import floats
from .places import Rows
from .sizes import tiles_of, up
from .workspace import spans
from .writer import CudaWriter, unknown

_HEAD_ROWS, _ATTENTION_THREADS = 16, 128  # as in attention.cu
_PROMPT_DIMS, _PROMPT_THREADS, _PROMPT_PLACES = (64, 128), 256, 4  # as in prefill_attention.cu
_MOST_SHARED = 112 << 10  # bytes of shared memory for a block: two fit a processor
_LOG2_E = 1.4426950408889634
_WIDEST = 1024  # as in any_attention.cu


class _Heads(NamedTuple):
    """What all kernels of an attention are told: rows of queries, keys and values; offsets in a page of the cache."""

    op: Attention
    q: Rows
    k: Rows
    v: Rows
    out: Rows
    k_dim: int
    v_dim: int
    cache: tuple[int, int]
    rotation: tuple[int, int, int]  # address of the turns, or 0; pairs that turn; whether these are neighbours
    scale: np.float32

    @property
    def widths(self) -> tuple[int, int]:
        """Of a head's keys and values in the cache."""
        return up(self.k_dim, 16), up(self.v_dim, 16)

    @property
    def more(self) -> str:
        """Whether kernels are to look for more than a window, as an argument of their templates."""
        return str(bool(self.op.chunk or self.op.softcap or self.op.sinks)).lower()

    @property
    def group(self) -> int:
        """Heads that share one of keys."""
        return self.op.q.heads // self.op.kv_heads


def _rotated(w: CudaWriter, item: RotatedAttention) -> None:
    op, layout = item.op, w.plan.layout
    rotation = 0, 0, 0
    if item.rope:
        rope = item.rope.frequencies
        rotation = w.turns(rope), len(rope.frequencies), int(rope.layout == "pairs")
    heads = _Heads(
        op, w.floats(item.q), w.floats(item.k), w.floats(item.v), w.rows(op.out), item.q.width, item.v.width,
        (layout.k_offset[op.slot], layout.v_offset[op.slot]), rotation, np.float32(op.scale * _LOG2_E),
    )  # fmt: skip
    if w.one and rotation[0] and _plain(w):
        _few(w, heads, alone=True)
        return
    _rotate_and_save(w, heads)
    if w.sizes.few:
        _few(w, heads, alone=False)
    else:
        _many(w, heads)


def _form(w: CudaWriter, op: Attention) -> tuple[int, int, np.float32, int]:
    """Window, chunk, cap of scores, which are powers of two, and address of sinks."""
    return op.window, op.chunk, np.float32(op.softcap * _LOG2_E), w.plan.floats(op.sinks) if op.sinks else 0


def _types(w: CudaWriter) -> str:
    return f"{w.plan.layout.types.k}, {w.plan.layout.types.v}"


def _plain(w: CudaWriter) -> bool:
    """Whether the cache keeps halves."""
    return _types(w) == "f16, f16"


def _batch(w: CudaWriter) -> tuple[int, int, int]:
    return w.inputs.n_tokens, w.inputs.tokens, w.inputs.tables


def _rotate_and_save(w: CudaWriter, heads: _Heads) -> None:
    """The rotation of queries and keys, and the saving of keys and values."""
    op, (k_width, v_width), n = heads.op, heads.widths, w.sizes.n_tokens
    # a cache that is not plain has a kernel of its own for what goes into it
    n_saved = op.kv_heads if _plain(w) else 0
    parts = tiles_of((op.q.heads + n_saved) * (heads.k_dim // 2) + n_saved * heads.v_dim, 256)
    w.launch(
        "rotate_and_save", (parts, n), 256, heads.q.at, heads.k.at, heads.v.at, heads.q.stride, heads.k.stride,
        heads.v.stride, *heads.rotation, heads.scale, w.scratch("queries"), op.q.heads, n_saved, heads.k_dim, k_width,
        heads.v_dim, v_width, *heads.cache, *_batch(w),
    )  # fmt: skip
    if not _plain(w):
        _save(w, op, heads.k, heads.v, heads.k_dim, heads.v_dim, heads.v_dim, heads.rotation)


def _save(
    w: CudaWriter, op: Attention, k: Rows, v: Rows, k_dim: int, v_dim: int, v_head: int, rotation: tuple[int, int, int]
) -> None:
    """Keys, rotated, and values into a cache of any type; v_head: numbers from one head of values to the next."""
    layout = w.plan.layout
    groups = tiles_of(op.kv_heads * (tiles_of(k_dim, 32) + tiles_of(v_dim, 32)), 4)
    w.launch(
        f"save<{_types(w)}>", (groups, w.sizes.n_tokens), 128, k.at, v.at, k.stride, v.stride, v_head, *rotation,
        op.kv_heads, k_dim, v_dim, layout.k_offset[op.slot], layout.v_offset[op.slot], *_batch(w),
    )  # fmt: skip


def _few(w: CudaWriter, heads: _Heads, *, alone: bool) -> None:
    """Attention of single tokens; of one `alone` queries and keys are rotated and saved there."""
    op, (k_width, v_width), n = heads.op, heads.widths, w.sizes.n_tokens
    own = 2 * 16 * k_width + 1024  # bytes of shared memory that a block has besides: queries, states
    stage = 2 * 4 * (k_width * 24 + 16 * (v_width + 8))  # bytes of 16 keys and values for each of four warps
    stages = _places(heads, stage, 3, w.device.max_shared - own)
    tiles = op.kv_heads * tiles_of(heads.group, _HEAD_ROWS)
    first = heads.q.at, heads.k.at, heads.v.at, *heads.rotation
    w.launch(
        f"attend_one<{k_width}, {v_width}, {stages}, {_types(w)}, {heads.more}>", (tiles, spans(n), n),
        _ATTENTION_THREADS, *(first if alone else (w.scratch("queries"), 0, 0, 0, 0, 0)), heads.scale, heads.k_dim,
        heads.out.at, heads.out.stride, heads.v_dim, w.scratch("sums"), w.scratch("states"), w.scratch("done"),
        op.q.heads, heads.group, *_form(w, op), *heads.cache, *_batch(w), shared=stages * stage, overlaps=True,
    )  # fmt: skip


def _many(w: CudaWriter, heads: _Heads) -> None:
    """Attention of many tokens of a sequence, or of several, by their tasks."""
    op, (k_width, v_width), inputs, n = heads.op, heads.widths, w.inputs, w.sizes.n_tasks
    tasks = op.q.heads, heads.group, *_form(w, op), *heads.cache, inputs.tasks, inputs.tokens, inputs.tables
    first = w.scratch("queries"), heads.out.at, heads.out.stride
    if w.device.has_wgmma and _plain(w) and heads.k_dim == heads.v_dim and heads.k_dim in _PROMPT_DIMS:
        size = _PROMPT_PLACES * 2 * 2 * PAGE * heads.k_dim + 1024
        grid = n, op.kv_heads
        w.launch(f"attend_prompt<{heads.k_dim}, {heads.more}>", grid, _PROMPT_THREADS, *first, *tasks, shared=size)
        return
    page = 2 * (k_width * 72 + 64 * (v_width + 8))
    stages = _places(heads, page, 2, w.device.max_shared)
    w.launch(
        f"attend_many<{k_width}, {v_width}, {stages}, {_types(w)}, {heads.more}>", (2 * n, op.kv_heads),
        _ATTENTION_THREADS, *first, heads.v_dim, *tasks, shared=stages * page,
    )  # fmt: skip


def _places(heads: _Heads, size: int, most: int, room: int) -> int:
    """How many places of a size there are for what comes out of the cache, in so many bytes of shared memory."""
    n = min(most, min(room, _MOST_SHARED) // size)
    if not n:
        raise PlanError(f"attention heads of {heads.k_dim} dimensions: too large for this GPU")
    return n


def _any(w: CudaWriter, op: Attention) -> None:
    """Attention with any mask and bias, of heads of any width."""
    if op.keys or op.source or op.summaries is not None:
        raise unknown(op, ", over chosen keys, summaries or a source text,")
    if max(op.q.width, op.v_width) > _WIDEST:
        raise unknown(op, f" of heads of {op.q.width} and {op.v_width} columns")
    if op.k:
        v = op.v or op.k
        _save(w, op, w.floats(op.k), w.floats(v), op.k.width, op.v_width, v.width, (0, 0, 0))
    q, out, layout = w.floats(op.q), w.rows(op.out), w.plan.layout
    sinks = w.plan.floats(op.sinks) if op.sinks else 0
    slopes = w.plan.vector(f"slopes {op.q.heads} {op.alibi}", lambda: _slopes(op)) if op.alibi else 0
    bias = w.plan.vector(f"{op.bias.name} by distance {op.causal}", lambda: _bias(op)) if op.bias else 0
    w.launch(
        f"attend_any<{_types(w)}, {'half_t' if out.halves else 'float'}>", (op.q.heads, w.sizes.n_tokens), 128, q.at,
        q.stride, out.at, out.stride, op.q.heads // op.kv_heads, op.q.width, op.v_width, np.float32(op.scale),
        int(op.causal), op.window, op.chunk, np.float32(op.softcap), sinks, slopes, bias, MOST_DISTANCE,
        layout.k_offset[op.slot], layout.v_offset[op.slot], w.inputs.ends, *_batch(w),
    )  # fmt: skip


def _slopes(op: Attention) -> np.ndarray:
    return alibi_slopes(op.q.heads, op.alibi).astype(np.float32)


def _bias(op: Attention) -> np.ndarray:
    """f32[heads][2·MOST_DISTANCE + 1], by distance."""
    assert op.bias
    table = floats(op.bias).reshape(op.bias.shape)
    distances = np.arange(-MOST_DISTANCE, MOST_DISTANCE + 1)
    return np.ascontiguousarray(table[distance_buckets(distances, len(table), op.causal)].T)


def _rope(w: CudaWriter, op: Rope) -> None:
    x, out, rope = w.floats(op.x), w.floats(op.out), op.frequencies
    turns = w.turns(rope, op.delay)
    w.launch(
        "rope", (tiles_of(op.x.size, 256), w.n(op.x)), 256, x.at, x.stride, out.at, out.stride, op.x.heads,
        op.x.width, op.offset, turns, len(rope.frequencies), int(rope.layout == "pairs"), w.count(op.x),
    )  # fmt: skip


LAUNCHES: dict[type[Any], Callable[[CudaWriter, Any], None]] = {
    RotatedAttention: _rotated,
    Attention: _any,
    Rope: _rope,
}

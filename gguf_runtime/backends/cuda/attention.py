"""Attention, with the rotation of queries and keys and the saving of keys and values before it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...fusion import RotatedAttention
from ...kernels.layout import PAGE
from ...operations import Attention, RopeFrequencies, describe
from ..errors import PlanError
from ..pages import PageLayout
from .device import Launch
from .launches import Launches, spans
from .places import Rows
from .sizes import tiles_of, up
from .weights import upload_vector

_HEAD_ROWS, _ATTENTION_THREADS = 16, 128  # as in attention.cu
_PROMPT_DIMS, _PROMPT_THREADS, _PROMPT_PLACES = (64, 128), 256, 4  # as in prefill_attention.cu
_MOST_SHARED = 112 << 10  # bytes of shared memory for a block: two fit a processor
_LOG2_E = 1.4426950408889634


class _Heads(NamedTuple):
    """What all kernels of an attention are told. at: addresses of queries, keys and values, rows at `stride`."""

    op: Attention
    at: tuple[int, int, int]
    stride: int
    out: Rows
    k_dim: int
    v_dim: int
    cache: tuple[int, int]  # offsets of keys and values in a page
    rotation: tuple[int, int, int]  # address of the turns, or 0; pairs that turn; whether these are neighbours
    scale: np.float32

    @property
    def widths(self) -> tuple[int, int]:
        """Of a head's keys and values in the cache."""
        return up(self.k_dim, 16), up(self.v_dim, 16)

    @property
    def group(self) -> int:
        """Heads that share one of keys."""
        return self.op.q.heads // self.op.kv_heads


class AttentionWriter:
    """Writes launches of attention."""

    def __init__(self, to: Launches, layout: PageLayout) -> None:
        self._to, self._device, self._layout = to, to.device, layout
        self._types = f"{layout.k_type}, {layout.v_type}"
        self._plain = self._types == "f16, f16"
        inputs = to.inputs
        self._batch = inputs.n_tokens, inputs.tokens, inputs.tables

    def attend(self, item: RotatedAttention) -> None:
        op, layout = item.op, self._layout
        q, k, v, out = (self._to.rows[value.number] for value in (item.q, item.k, item.v, op.out))
        if not op.causal or op.chunk or op.sinks or op.softcap or op.alibi or op.bias:
            raise PlanError(f"{describe(op)}: more than a causal mask and a window is not on the GPU yet")
        if not q.stride == k.stride == v.stride or q.halves or k.halves or v.halves:
            raise PlanError("queries, keys and values that are not products of one value: not on the GPU yet")
        rotation = 0, 0, 0
        if item.rope:
            rope = item.rope.frequencies
            rotation = self._turns(rope), len(rope.frequencies), int(rope.layout == "pairs")
        heads = _Heads(
            op, (q.at, k.at, v.at), q.stride, out, item.q.width, item.v.width,
            (layout.k_offset[op.slot], layout.v_offset[op.slot]), rotation, np.float32(op.scale * _LOG2_E),
        )  # fmt: skip
        save = self._save(heads)
        self._few(heads, save)
        self._to.prefill += [save, self._many(heads)]

    def _save(self, heads: _Heads) -> Launch:
        """Launch the rotation of queries and keys, and the saving of keys and values."""
        op, (k_width, v_width), device = heads.op, heads.widths, self._device
        # a cache that is not plain has a kernel of its own for what goes into it
        n_saved = op.kv_heads if self._plain else 0
        rotated = (
            *heads.at, heads.stride, *heads.rotation, heads.scale, self._to.space.scratch["queries"].address,
            op.q.heads, n_saved, heads.k_dim, k_width, heads.v_dim, v_width, *heads.cache, *self._batch,
        )  # fmt: skip
        parts = tiles_of((op.q.heads + n_saved) * (heads.k_dim // 2) + n_saved * heads.v_dim, 256)
        rotate = device.kernel("rotate_and_save")
        if self._plain:
            return lambda n: rotate((parts, n), 256, rotated)
        saved = (
            *heads.at[1:], heads.stride, *heads.rotation, op.kv_heads, heads.k_dim, heads.v_dim, *heads.cache,
            *self._batch,
        )  # fmt: skip
        groups = tiles_of(op.kv_heads * (tiles_of(heads.k_dim, 32) + tiles_of(heads.v_dim, 32)), 4)
        save = device.kernel(f"save<{self._types}>")

        def launch(n: int) -> None:
            rotate((parts, n), 256, rotated)
            save((groups, n), 128, saved)

        return launch

    def _few(self, heads: _Heads, save: Launch) -> None:
        """Attention of single tokens, of which one may have its queries and keys rotated and saved there."""
        op, (k_width, v_width), device = heads.op, heads.widths, self._device
        scratch = {name: memory.address for name, memory in self._to.space.scratch.items()}
        own = 2 * 16 * k_width + 1024  # bytes of shared memory that a block has besides: queries, states
        stage = 2 * 4 * (k_width * 24 + 16 * (v_width + 8))  # bytes of 16 keys and values for each of four warps
        n = self._places(heads, stage, 3, device.max_shared - own)
        attend = device.kernel(f"attend_one<{k_width}, {v_width}, {n}, {self._types}>", n * stage, overlaps=True)
        tiles = op.kv_heads * tiles_of(heads.group, _HEAD_ROWS)
        rest = (
            heads.out.at, heads.out.stride, heads.v_dim, scratch["sums"], scratch["states"], scratch["done"],
            op.q.heads, heads.group, op.window, *heads.cache, *self._batch,
        )  # fmt: skip
        alone = (*heads.at, *heads.rotation, heads.scale, heads.k_dim, *rest)
        together = (scratch["queries"], 0, 0, 0, 0, 0, heads.scale, heads.k_dim, *rest)

        def few(n: int) -> None:
            attend((tiles, spans(n), n), _ATTENTION_THREADS, together)

        if heads.rotation[0] and self._plain:
            self._to.decode.append(lambda n: attend((tiles, spans(1), 1), _ATTENTION_THREADS, alone))
        else:
            self._to.decode += [save, few]
        self._to.small_batch += [save, few]

    def _many(self, heads: _Heads) -> Launch:
        """Launch the attention of many tokens of a sequence, or of several, by their tasks."""
        op, (k_width, v_width), device, inputs = heads.op, heads.widths, self._device, self._to.inputs
        tasks = op.q.heads, heads.group, op.window, *heads.cache, inputs.tasks, inputs.tokens, inputs.tables
        first = self._to.space.scratch["queries"].address, heads.out.at, heads.out.stride
        if device.has_wgmma and self._plain and heads.k_dim == heads.v_dim and heads.k_dim in _PROMPT_DIMS:
            size = _PROMPT_PLACES * 2 * 2 * PAGE * heads.k_dim + 1024
            prompt, arguments = device.kernel(f"attend_prompt<{heads.k_dim}>", size), (*first, *tasks)
            return lambda n: prompt((self._to.n_tasks, op.kv_heads), _PROMPT_THREADS, arguments)
        page = 2 * (k_width * 72 + 64 * (v_width + 8))
        n = self._places(heads, page, 2, device.max_shared)
        attend = device.kernel(f"attend_many<{k_width}, {v_width}, {n}, {self._types}>", n * page)
        halves = (*first, heads.v_dim, *tasks)
        return lambda n: attend((2 * self._to.n_tasks, op.kv_heads), _ATTENTION_THREADS, halves)

    def _places(self, heads: _Heads, size: int, most: int, room: int) -> int:
        """How many places of a size there are for what comes out of the cache, in so many bytes of shared memory."""
        n = min(most, min(room, _MOST_SHARED) // size)
        if not n:
            raise PlanError(f"attention heads of {heads.k_dim} dimensions: too large for this GPU")
        return n

    def _turns(self, rope: RopeFrequencies) -> int:
        """Address of the tokens' (cos, sin), which are made once for all layers that rotate alike."""
        angles, space = self._to.inputs.angles, self._to.space
        if id(rope) not in angles:
            n_pairs, device = len(rope.frequencies), self._device
            angles[id(rope)] = device.allocate(8 * n_pairs * space.n_rows)
            if id(rope) not in space.vectors:
                space.vectors[id(rope)] = upload_vector(device, rope.frequencies.astype(np.float64))
            kernel, magnitude = device.kernel("angles"), np.float32(rope.magnitude)
            frequencies, out = space.vectors[id(rope)].address, angles[id(rope)].address
            arguments = frequencies, n_pairs, magnitude, out, self._to.inputs.n_tokens, self._to.inputs.tokens
            self._to.all(lambda n: kernel((n,), 64, arguments))
        return angles[id(rope)].address

"""Attention, with the rotation of queries and keys and the saving of keys and values before it."""

from __future__ import annotations

import numpy as np

from ...cache import PageLayout
from ...graph import RopeFrequencies
from ..errors import PlanError
from .fuse import Attend
from .launches import Launches, spans, tiles_of, up
from .weights import upload_vector

_HEAD_ROWS, _ATTENTION_THREADS = 16, 128  # as in attention.cu
_LOG2_E = 1.4426950408889634


class AttentionWriter:
    """Writes launches of attention."""

    def __init__(self, to: Launches, layout: PageLayout) -> None:
        self._to, self._device, self._layout = to, to.device, layout

    def attend(self, item: Attend) -> None:
        op, layout, inputs, device = item.op, self._layout, self._to.inputs, self._device
        types = f"{layout.k_type}, {layout.v_type}"
        plain = types == "f16, f16"
        q, k, v, out = (self._to.rows[value.number] for value in (item.q, item.k, op.v, op.out))
        if not q.stride == k.stride == v.stride:
            raise PlanError("queries, keys and values that are not products of one value: not on the GPU yet")
        k_dim, v_dim = op.q.width // op.n_heads, op.v.width // op.n_kv_heads
        k_width, v_width, group = up(k_dim, 16), up(v_dim, 16), op.n_heads // op.n_kv_heads
        cache = layout.k_offset[op.layer], layout.v_offset[op.layer]
        scratch = self._to.space.scratch
        queries, sums, states, done = (scratch[name].address for name in ("queries", "sums", "states", "done"))
        scale, batch = np.float32(op.scale * _LOG2_E), (inputs.n_tokens, inputs.tokens, inputs.tables)
        turns = self._turns(item.rope.frequencies) if item.rope else 0
        n_pairs, neighbours = 0, 0
        if item.rope:
            n_pairs = len(item.rope.frequencies.frequencies)
            neighbours = int(item.rope.frequencies.layout == "pairs")

        own = 2 * 16 * k_width + 1024  # bytes of shared memory that attend_one has besides: queries, states
        stage = 2 * 4 * (k_width * 24 + 16 * (v_width + 8))  # bytes of 16 keys and values for each of four warps
        page = 2 * (k_width * 72 + 64 * (v_width + 8))
        stages = max((n for n in (1, 2, 3) if n * stage <= min(device.max_shared - own, 112 << 10)), default=0)
        pages = max((n for n in (1, 2) if n * page <= min(device.max_shared, 112 << 10)), default=0)
        if not stages or not pages:
            raise PlanError(f"attention heads of {k_dim} dimensions: too large for this GPU")
        attend_one = device.kernel(
            f"attend_one<{k_width}, {v_width}, {stages}, {types}>", stages * stage, overlaps=True
        )
        attend_many = device.kernel(f"attend_many<{k_width}, {v_width}, {pages}, {types}>", pages * page)
        rotate = device.kernel("rotate_and_save")

        # a cache that is not plain has a kernel of its own for what goes into it
        n_saved = op.n_kv_heads if plain else 0
        rotated = (
            q.at, k.at, v.at, q.stride, turns, n_pairs, neighbours, scale, queries, op.n_heads, n_saved, k_dim,
            k_width, v_dim, v_width, *cache, *batch,
        )  # fmt: skip
        parts = tiles_of((op.n_heads + n_saved) * (k_dim // 2) + n_saved * v_dim, 256)
        saved = (
            k.at, v.at, q.stride, turns, n_pairs, neighbours, op.n_kv_heads, k_dim, v_dim, *cache, *batch,
        )  # fmt: skip
        groups = tiles_of(op.n_kv_heads * (tiles_of(k_dim, 32) + tiles_of(v_dim, 32)), 4)
        save_any = None if plain else device.kernel(f"save<{types}>")
        tiles = op.n_kv_heads * tiles_of(group, _HEAD_ROWS)
        rest = out.at, out.stride, v_dim, sums, states, done, op.n_heads, group, op.window, *cache, *batch
        alone = (q.at, k.at, v.at, turns, n_pairs, neighbours, scale, k_dim, *rest)
        together = (queries, 0, 0, 0, 0, 0, scale, k_dim, *rest)
        many = (
            queries, out.at, out.stride, v_dim, op.n_heads, group, op.window, *cache, inputs.tasks, inputs.tokens,
            inputs.tables,
        )  # fmt: skip

        def save(n: int) -> None:
            rotate((parts, n), 256, rotated)
            if save_any:
                save_any((groups, n), 128, saved)

        def few(n: int) -> None:
            attend_one((tiles, spans(n), n), _ATTENTION_THREADS, together)

        if turns and plain:
            self._to.one.append(lambda n: attend_one((tiles, spans(1), 1), _ATTENTION_THREADS, alone))
        else:
            self._to.one += [save, few]
        self._to.batches(save)
        self._to.few.append(few)
        self._to.many.append(lambda n: attend_many((self._to.n_tasks, op.n_kv_heads), _ATTENTION_THREADS, many))

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

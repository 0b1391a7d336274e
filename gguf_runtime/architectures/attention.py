"""The pieces of attention that model families share."""

from __future__ import annotations

from typing import Literal

from ..loader import Tensor
from ..operations import (
    Activate,
    Attention,
    Mul,
    Rope,
    RopeFrequencies,
    Value,
    View,
)
from . import rope
from .hparams import ModelError
from .pieces import Pieces


class AttentionPieces(Pieces):
    """Queries, keys and values; what each token sees."""

    def window(self, period: int = 1, *, full_first: bool = False, size: int = 0) -> int:
        """How many tokens attention of this layer sees, itself the last; 0 for all.

        Of `period` layers the last one sees all, or the first. `attention.sliding_window_pattern` says otherwise:
        another period, or for each layer whether it has a window. size: where the file tells none.
        """
        key = "attention.sliding_window_pattern"
        n = self.w.count("attention.sliding_window", size, least=0)
        if self.w.is_array(key):
            return n if self.w.flag(key, layer=self.i) else 0
        period = self.w.count(key, period, least=0)
        full = period > 0 and self.i % period == (0 if full_first else period - 1)
        return 0 if full else n

    def rope_frequencies(
        self, layout: Literal["pairs", "halves"], *, n_rot: int = 0, **options: float | bool
    ) -> RopeFrequencies:
        """Those of rope.frequencies over n_rot columns; by default `rope.dimension_count`, or a head's."""
        self.w.ignore("rope.dimension_sections")  # axes of positions (M-RoPE), which are all the same for text
        n_rot = n_rot or self.w.count("rope.dimension_count", self.head_dim)
        return rope.frequencies(self.w, layout, n_rot, self.n_ctx, **options)  # type: ignore[arg-type]

    def qkv(self, h: Value) -> tuple[Value, Value, Value]:
        """Queries, keys and values, from three matrices or one; clamped, where the file says so."""
        n_head, n_kv, k_dim, v_dim = self.n_head, self.n_head_kv, self.head_dim, self.head_dim_v
        if not n_kv or not n_head or n_head % n_kv:
            raise ModelError(f"{n_head} attention heads cannot share {n_kv} key heads")
        if self.has("attn_qkv"):
            q, k, v = self.slices(h, "attn_qkv", (n_head * k_dim, n_head), (n_kv * k_dim, n_kv), (n_kv * v_dim, n_kv))
        else:
            q = self.linear(h, "attn_q", n_head * k_dim, n_head)
            k = self.linear(h, "attn_k", n_kv * k_dim, n_kv)
            v = self.linear(h, "attn_v", n_kv * v_dim, n_kv)
        if limit := self.w.number("attention.clamp_kqv", 0.0, at_least=0):
            q, k, v = (self.graph(Activate(x, "clamp", (-limit, limit))) for x in (q, k, v))
        return q, k, v

    def qk_norm(self, q: Value, k: Value) -> tuple[Value, Value]:
        """Norms of each head of queries and of keys, with one weight for all heads or one for each."""
        q_name, k_name = "attn_q_norm", "attn_k_norm"
        if len(self.w.shape(self.name(f"{q_name}.weight"))) == 2:
            return self.norm(q, q_name, q.heads, q.width), self.norm(k, k_name, k.heads, k.width)
        return self.norm(q, q_name), self.norm(k, k_name)

    def qk_norm_across(self, q: Value, k: Value) -> tuple[Value, Value]:
        """Norms of all heads of queries as one, and of all of keys."""
        q_flat, k_flat = (self.graph(View(x, 1)) for x in (q, k))
        q_normed, k_normed = self.norm(q_flat, "attn_q_norm"), self.norm(k_flat, "attn_k_norm")
        return self.graph(View(q_normed, q.heads)), self.graph(View(k_normed, k.heads))

    def rotate(self, q: Value, k: Value, frequencies: RopeFrequencies | None) -> tuple[Value, Value]:
        if frequencies is None:
            return q, k
        if 2 * len(frequencies.frequencies) > k.width:
            raise ModelError(f"RoPE over {2 * len(frequencies.frequencies)} dimensions, but a head has {k.width}")
        return self.graph(Rope(q, frequencies)), self.graph(Rope(k, frequencies))

    def attend(self, q: Value, k: Value, v: Value, *, scale: float = 0.0, window: int = 0, softcap: float = 0.0,
               chunk: int = 0, alibi: float = 0.0, sinks: Tensor | None = None,
               slot: int | None = None, keys: Value | None = None) -> Value:  # fmt: skip
        """Attention; scale: by default width^-½ of a head. slot: of the cache, by default of the layer's number."""
        scale, slot = scale or k.width**-0.5, self.i if slot is None else slot
        return self.graph(
            Attention(
                q, k, v, slot, k.heads, v.width, scale, self.causal, window, chunk, sinks, softcap, alibi, keys=keys
            )
        )

    def gate(self, o: Value, h: Value, kind: str = "sigmoid") -> Value:
        """Attention's result times activation(attn_gate·h): a number for each of it, or one for each head."""
        n_rows = self.w.shape(self.name("attn_gate.weight"))[0]
        if n_rows not in (o.heads, o.size):
            raise ModelError(f"{n_rows} gates do not fit {o.heads} heads of {o.width}")
        return self.graph(Mul(o, self.graph(Activate(self.linear(h, "attn_gate", n_rows, o.heads), kind))))

    def project(self, o: Value) -> Value:
        """The end of attention."""
        return self.linear(o, "attn_output", self.n_embd)

    def attention(self, h: Value, frequencies: RopeFrequencies | None, *, qk_norm: bool = False, scale: float = 0.0,
                  window: int = 0, softcap: float = 0.0) -> Value:  # fmt: skip
        """Attention as most models have it: projections, norms of heads, rotation, attention, output."""
        q, k, v = self.qkv(h)
        if qk_norm:
            q, k = self.qk_norm(q, k)
        q, k = self.rotate(q, k, frequencies)
        return self.project(self.attend(q, k, v, scale=scale, window=window, softcap=softcap))

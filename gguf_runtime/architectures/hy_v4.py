"""Hunyuan 4 (Tencent 2026)."""

from __future__ import annotations

from collections.abc import Callable

from ..operations import Value
from . import mla
from .hyper import Streams
from .layers import Layers


def hy_v4(m: Layers) -> None:
    """Hyper-connections; latent attention with gates and sinks, which sees keys that an indexer finds; experts whose
    values are clamped."""
    streams = Streams(m)
    rope = m.rope_frequencies("pairs", factors=False)
    magnitude = m.w.number("hyper_connection.magnitude")
    sparse = m.w.count("attention.indexer.top_k", 0, least=0) > 0
    keys: Value | None = None

    def attention(h: Value) -> Value:
        nonlocal keys
        a = mla.absorbed(m, h, rope)
        if sparse and (keys is None or m.w.flag("attention.indexer.types", True, layer=m.i)):
            keys = mla.best_keys(m, h, a.q_latent, rope, rotated_last=True, eps=m.norm_kind[1])
        else:
            mla.ignore_indexer(m)
        o = mla.attend(m, a, keys=keys, sinks=m.tensor("attn_sinks.weight", m.n_head))
        return m.project(m.gate(o, h))

    def block(x: Value, name: str, run: Callable[[Value], Value]) -> Value:
        fn, scale, base = streams.tensors(name, 2 * streams.n, 2)
        mixes = streams.mixes(x, fn)
        y = run(m.norm(streams.read(x, streams.shares(mixes, scale, base, 0)), f"{name}_norm"))
        return streams.write(x, y, streams.shares(mixes, scale, base, 1, magnitude))

    x = streams.start(m.embed())
    for _ in m.layers():
        x = block(x, "attn", attention)
        x = block(x, "ffn", lambda h: m.moe(h, m.clamped_glu("swiglu_clamp_exp"), shared_kind="silu"))
    m.output(streams.end(x))

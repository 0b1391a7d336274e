"""Muse Glimmer."""

from __future__ import annotations

from ..operations import Norm, Value
from .layers import Layers


def muse_glimmer(m: Layers) -> None:
    """Norms before and after each block, attention is gated; layers that see all know no positions."""
    rope = m.rope_frequencies("pairs", base=m.w.number("rope.freq_base_swa", 0.0))

    def norm_after(y: Value, name: str) -> Value:
        return m.graph(Norm(y, m.tensor(f"{name}.weight", m.n_embd), 1e-8))  # its own epsilon, in no key

    x = m.bare_norm(m.embed())
    for _ in m.layers():
        h, window = m.norm(x, "attn_norm"), m.window(4)
        q, k, v = m.qkv(h)
        q, k = m.qk_norm(q, k)
        q, k = m.rotate(q, k, rope if window else None)
        y = m.project(m.gate(m.attend(q, k, v, window=window), h))
        x = m.add(x, norm_after(y, "post_attention_norm"))
        x = m.add(x, norm_after(m.ffn(m.norm(x, "ffn_norm")), "post_ffw_norm"))
    m.output(x, scale=m.w.number("logit_scale"), softcap=m.w.number("final_logit_softcapping", 30.0))

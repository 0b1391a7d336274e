"""Arctic (Snowflake 2024)."""

from __future__ import annotations

from .layers import Layers


def arctic(m: Layers) -> None:
    """As llama with small feed-forwards; experts beside each whole layer read its input."""
    rope = m.rope_frequencies("pairs")
    x = m.embed()
    for _ in m.layers():
        y = m.add(x, m.attention(m.norm(x, "attn_norm"), rope))
        y = m.add(y, m.ffn(m.norm(y, "ffn_norm"), n_ff=m.n_embd))
        h = m.norm(x, "ffn_norm_exps")
        x = m.add(y, m.experts(h, m.route(h)))
    m.output(x)

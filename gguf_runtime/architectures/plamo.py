"""PLaMo 1 (Preferred Networks 2023) and 3 (2025)."""

from __future__ import annotations

from .layers import Layers


def plamo(m: Layers) -> None:
    """Attention and feed-forward side by side, on one norm."""
    rope = m.rope_frequencies("halves", n_rot=m.head_dim)
    m.w.ignore("rope.dimension_count")
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(m.add(x, m.attention(h, rope)), m.ffn(h))
    m.output(x)


def plamo3(m: Layers) -> None:
    """Norms before and after each block, and of queries and keys; seven of eight layers have windows."""
    full = m.rope_frequencies("halves")
    local = m.rope_frequencies("halves", base=m.w.number("rope.freq_base_swa", 10000.0), scaled=False)
    x = m.embed()
    for _ in m.layers():
        window = m.window(8)
        y = m.attention(m.norm(x, "attn_norm"), local if window else full, qk_norm=True, window=window)
        x = m.add(x, m.norm(y, "post_attention_norm"))
        x = m.add(x, m.norm(m.ffn(m.norm(x, "ffn_norm")), "post_ffw_norm"))
    m.output(x)

"""StableLM (Stability AI 2023, 2024)."""

from __future__ import annotations

from .layers import Layers


def stablelm(m: Layers) -> None:
    """LayerNorms, RoPE over a quarter of each head; without a second norm attention and feed-forward share one."""
    m.w.ignore("use_parallel_residual")  # the tensors tell it
    rope = m.rope_frequencies("halves")
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(x, m.attention(h, rope, qk_norm=m.has("attn_q_norm")))
        x = m.add(x, m.ffn(m.norm(x, "ffn_norm") if m.has("ffn_norm") else h))
    m.output(x)

"""ChatGLM 3, GLM-4 (GLM ThreadPool 2024) and GLM-4.5 (2025)."""

from __future__ import annotations

from ..operations import Value
from .layers import Layers


def chatglm(m: Layers) -> None:
    """Fused matrices, and RoPE over half of each head."""
    rope = m.rope_frequencies("pairs")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), m.ffn))


def glm4(m: Layers) -> None:
    """As chatglm, with norms before and after each block."""
    rope = m.rope_frequencies("halves" if _is_multimodal(m) else "pairs")
    x = m.embed()
    for _ in m.layers():
        x = m.add(x, m.norm(m.attention(m.norm(x, "attn_norm"), rope), "post_attention_norm"))
        x = m.add(x, m.norm(m.ffn(m.norm(x, "ffn_norm")), "post_ffw_norm"))
    m.output(x)


def glm4moe(m: Layers) -> None:
    """Experts as DeepSeek-V3's, after leading dense layers; norms of queries and keys in the larger model."""
    _is_multimodal(m)
    rope = m.rope_frequencies("halves")

    def attention(h: Value) -> Value:
        return m.attention(h, rope, qk_norm=m.has("attn_q_norm"))

    m.output(m.pre_norm(m.embed(), attention, lambda h: m.moe(h, gating="sigmoid"), second="post_attention_norm"))


def _is_multimodal(m: Layers) -> bool:
    """Whether positions have several axes: for text they are all the same."""
    return "rope.dimension_sections" in m.w

"""OLMo (Groeneveld et al. 2024), OLMo 2 and 3 (2025), OLMoE (Muennighoff et al. 2024)."""

from __future__ import annotations

from ..operations import RopeFrequencies, Value
from .layers import Layers


def olmo(m: Layers) -> None:
    """As llama, but with LayerNorms without weights, and clamped queries, keys and values."""
    rope = m.rope_frequencies("pairs")
    x = m.embed()
    for _ in m.layers():
        x = m.add(x, m.attention(m.bare_norm(x), rope))
        x = m.add(x, m.ffn(m.bare_norm(x)))
    m.output(m.bare_norm(x), norm="")


def olmo2(m: Layers) -> None:
    """Norms after each block, before what it made is added; OLMo 3 has windows, and YaRN in full layers only."""
    full = m.rope_frequencies("halves")
    local = m.rope_frequencies("halves", scaled=False)
    x = m.embed()
    for _ in m.layers():
        window = m.window(4)
        x = m.add(x, m.norm(_attention(m, x, local if window else full, window), "post_attention_norm"))
        x = m.add(x, m.norm(m.ffn(x), "post_ffw_norm"))
    m.output(x)


def olmoe(m: Layers) -> None:
    """Experts whose weights do not sum to 1."""
    rope = m.rope_frequencies("halves")

    def feed_forward(h: Value) -> Value:
        return m.experts(h, m.route(h, normalise=False))

    m.output(m.pre_norm(m.embed(), lambda h: _attention(m, h, rope), feed_forward))


def _attention(m: Layers, h: Value, rope: RopeFrequencies, window: int = 0) -> Value:
    """With norms of all heads of queries as one, and of all of keys."""
    q, k, v = m.qkv(h)
    q, k = m.rotate(*m.qk_norm_across(q, k), rope)
    return m.project(m.attend(q, k, v, window=window))

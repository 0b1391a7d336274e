"""SmolLM 3 (Hugging Face 2025)."""

from __future__ import annotations

from .layers import Layers


def smollm3(m: Layers) -> None:
    """As llama, but every fourth layer knows no positions (NoPE, Yang et al. 2025)."""
    rope = m.rope_frequencies("pairs")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, None if m.i % 4 == 3 else rope), m.ffn))

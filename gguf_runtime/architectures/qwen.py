"""Qwen 1 (Bai et al. 2023), 2, 2.5 (Yang et al. 2024) and 3 (Yang et al. 2025), dense and with experts.

Diffusion models that were made of them see the whole text: Dream (Ye et al. 2025) and RND1 (2025).
"""

from __future__ import annotations

from .layers import Layers


def qwen(m: Layers) -> None:
    """Fused matrices of queries, keys and values; the file's feed-forward size counts gate and up together."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope), lambda h: m.ffn(h, n_ff=m.n_ff // 2)))


def qwen2(m: Layers) -> None:
    """As llama, but with biases of queries, keys and values, and halves that rotate."""
    _layers(m, qk_norm=False)


def qwen3(m: Layers) -> None:
    """As qwen2, but with norms of each head of queries and keys; weights of experts sum to 1."""
    m.w.ignore("n_deepstack_layers")  # of images
    _layers(m, qk_norm=True)


qwen2moe = qwen2vl = qwen2
qwen3moe = qwen3vl = qwen3vlmoe = qwen3


def dream(m: Layers) -> None:
    m.causal = False
    qwen2(m)


def rnd1(m: Layers) -> None:
    m.causal = False
    qwen3(m)


def _layers(m: Layers, qk_norm: bool) -> None:
    rope = m.rope_frequencies("halves")
    x = m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=qk_norm), lambda h: m.moe(h, normalise=qk_norm))
    m.output(x)

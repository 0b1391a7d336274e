"""Attention beside state spaces: Jamba (Lieber et al. 2024), Granite 4, Falcon-H1, Nemotron-H (all 2025)."""

from __future__ import annotations

from ..operations import Value
from .layers import Layers
from .state_space import mamba, mamba2


def jamba(m: Layers) -> None:
    """Mamba with norms, in some layers attention without positions; experts in some layers."""
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(x, m.attention(h, None) if m.n_head_kv else mamba(m, h, norms=True))
        x = m.add(x, m.moe(m.norm(x, "ffn_norm"), normalise=False))
    m.output(x)


def granitehybrid(m: Layers) -> None:
    """Granite with Mamba-2; attention has RoPE only where `rope.scaling.finetuned` says so."""
    number = m.w.number
    residual, scale = number("residual_scale", 0.0) or 1.0, number("attention.scale", 0.0)
    m.w.ignore("rope.freq_base", "rope.dimension_count")
    rope = m.rope_frequencies("pairs") if m.w.flag("rope.scaling.finetuned", True) else None
    x = m.embed(number("embedding_scale", 0.0) or 1.0)
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(x, m.attention(h, rope, scale=scale) if m.n_head_kv else mamba2(m, h), residual)
        x = m.add(x, m.moe(m.norm(x, "ffn_norm"), normalise=True), residual)
    m.output(x, scale=1 / (number("logit_scale", 0.0) or 1.0))


def falcon_h1(m: Layers) -> None:
    """Attention and Mamba-2 read the same norm, and their results are added."""
    rope = m.rope_frequencies("halves")
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        x = m.add(x, m.add(m.attention(h, rope), mamba2(m, h)))
        x = m.add(x, m.ffn(m.norm(x, "ffn_norm")))
    m.output(x)


def nemotron_h(m: Layers) -> None:
    """Each layer is one block: attention without positions, Mamba-2, or a feed-forward of squared ReLU."""
    m.w.ignore("attention.layer_norm_epsilon", "rope.freq_base", "rope.dimension_count")
    scale = m.w.number("attention.scale", 0.0)
    x = m.embed()
    for _ in m.layers():
        h = m.norm(x, "attn_norm")
        if m.n_ff:
            y = _latent_experts(m, h) if m.has("ffn_gate_inp") else m.ffn(h, "squared_relu", gated=False)
        elif m.n_head_kv:
            y = m.attention(h, None, scale=scale)
        else:
            y = mamba2(m, h)
        x = m.add(x, y)
    m.output(x)


nemotron_h_moe = nemotron_h


def _latent_experts(m: Layers, h: Value) -> Value:
    """Experts that may work in a smaller space, between ffn_latent_down and ffn_latent_up."""
    w = m.w
    route = m.route(h, gating="sigmoid", normalise=w.flag("expert_weights_norm"))
    latent = w.count("moe_latent_size", 0, least=0)
    x = m.linear(h, "ffn_latent_down", latent) if latent else h
    y = m.experts(x, route, "squared_relu", gated=False)
    y = m.linear(y, "ffn_latent_up", m.n_embd) if latent else y
    return m.add(y, m.shared_expert(h, "squared_relu", gated=False))

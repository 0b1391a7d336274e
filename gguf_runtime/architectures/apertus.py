"""Apertus (Swiss AI 2025)."""

from __future__ import annotations

import math

from ..loader import GGUFArray
from ..operations import Activate, Value
from .hparams import ModelError
from .layers import Layers


def apertus(m: Layers) -> None:
    """As llama, with norms of queries and keys, and xIELU (Huang & Schlag 2024) without a gate."""
    rope = m.rope_frequencies("halves")
    m.output(m.pre_norm(m.embed(), lambda h: m.attention(h, rope, qk_norm=True), lambda h: _feed_forward(m, h)))


def _feed_forward(m: Layers, h: Value) -> Value:
    alpha_n, alpha_p, beta, eps = (_of_layer(m, f"xielu.{name}") for name in ("alpha_n", "alpha_p", "beta", "eps"))
    parameters = beta + _softplus(alpha_n), _softplus(alpha_p), beta, eps  # files have them as they were trained
    y = m.graph(Activate(m.linear(h, "ffn_up", m.n_ff), "xielu", parameters))
    return m.linear(y, "ffn_down", m.n_embd)


def _of_layer(m: Layers, key: str) -> float:
    """These keys have no architecture's prefix: one number, or one for each layer."""
    value = m.w.file.metadata.get(key)
    if isinstance(value, GGUFArray) and len(value) >= m.n_layer:
        value = value[m.i]
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ModelError(f"{key} is {value!r}, which is not a number for each layer") from None


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

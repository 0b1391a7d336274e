"""RoPE frequencies with the scalings that stretch a model's context."""

from __future__ import annotations

import math

import numpy as np

from ..graph import RopeFrequencies
from .weights import ModelError, Weights


def frequencies(w: Weights, layout: str, n_rot: int) -> RopeFrequencies:
    """base^(-2i / n_rot) (Su et al. 2021) with the base of `rope.freq_base`, scaled as `rope.scaling.*` says."""
    base = w.number("rope.freq_base", 10000.0)
    if base <= 0 or n_rot % 2:
        raise ModelError(f"RoPE with base {base} over {n_rot} dimensions makes no sense")
    freqs = base ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)
    if factors := w.optional("rope_freqs.weight", n_rot // 2):  # Llama 3.1: a divisor for each frequency
        if factors.type != "F32":
            raise ModelError(f"tensor {factors.name} has type {factors.type}, which must be F32")
        freqs = freqs / factors.data.view(np.float32)
    kind = w.text("rope.scaling.type", "none")
    factor = w.number("rope.scaling.factor", 0.0) or w.number("rope.scale_linear", 0.0) or 1.0
    magnitude = w.number("rope.scaling.attn_factor", 1.0)
    if kind == "yarn":
        freqs, grown = _yarn(w, freqs, base, factor)
        magnitude *= grown
    elif kind == "linear" or (kind == "none" and factor != 1.0 and w.prefix + "rope.scale_linear" in w.file.metadata):
        freqs = freqs / factor
    elif kind not in ("none", "longrope"):
        raise ModelError(f"{w.prefix}rope.scaling.type is {kind!r}; ggrun knows none, linear and yarn")
    return RopeFrequencies(layout, freqs, magnitude)


def _yarn(w: Weights, freqs: np.ndarray, base: float, factor: float) -> tuple[np.ndarray, float]:
    """YaRN (Peng et al. 2023): high frequencies stay, low ones are stretched, those between are mixed."""
    n_rot, original = 2 * len(freqs), w.count("rope.scaling.original_context_length", w.count("context_length"))
    fast, slow = w.number("rope.scaling.yarn_beta_fast", 32.0), w.number("rope.scaling.yarn_beta_slow", 1.0)

    def dimension(rotations: float) -> float:
        """The dimension that turns so many times over the original context."""
        return n_rot * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(dimension(fast))), min(n_rot - 1, math.ceil(dimension(slow)))
    ramp = np.clip((np.arange(n_rot // 2) - low) / max(0.001, high - low), 0, 1)
    return freqs * (1 - ramp) + freqs / factor * ramp, 1 + 0.1 * math.log(factor)

"""RoPE frequencies with the scalings that stretch a model's context."""

from __future__ import annotations

import math

import numpy as np

from ..graph import RopeFrequencies
from ..loader import Tensor
from .weights import ModelError, Weights

_MOST = 1 << 16  # dimensions of a head; real ones have hundreds


def frequencies(w: Weights, layout: str, n_rot: int, n_ctx: int) -> RopeFrequencies:
    """base^(-2i / n_rot) (Su et al. 2021) with the base of `rope.freq_base`, scaled as `rope.scaling.*` says.

    n_ctx: tokens that a text may have, on which LongRoPE's factors depend. Raises ModelError.
    """
    base = w.number("rope.freq_base", 10000.0)
    if base <= 1 or n_rot % 2 or n_rot > _MOST:
        raise ModelError(f"RoPE with base {base} over {n_rot} dimensions makes no sense")
    kind = w.text("rope.scaling.type", "linear")
    # a factor of 0 stands for none; the second key is its old name
    factor = w.number("rope.scaling.factor", 0.0, at_least=0) or w.number("rope.scale_linear", 0.0, at_least=0) or 1.0
    magnitude = w.number("rope.scaling.attn_factor", 1.0)
    freqs = base ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        freqs = freqs / _divisors(w, n_rot, n_ctx, needed=kind == "longrope")
        if kind == "yarn":
            freqs, grown = _yarn(w, freqs, base, factor)
            magnitude *= grown
        elif kind in ("linear", "longrope"):
            freqs = freqs / factor
        elif kind != "none":
            known = "none, linear, yarn and longrope"
            raise ModelError(f"{w.prefix}rope.scaling.type is {kind!r}; ggrun knows {known}")
    if not (np.isfinite(freqs).all() and math.isfinite(magnitude)):
        raise ModelError("the RoPE frequencies that the file asks for are no numbers: it must be damaged")
    return RopeFrequencies(layout, freqs, magnitude)


def _divisors(w: Weights, n_rot: int, n_ctx: int, needed: bool) -> np.ndarray | float:
    """A divisor for each frequency, where the file has them.

    LongRoPE (Ding et al. 2024) has two sets, for contexts beyond the original one and for others; Llama 3.1 has one.
    """
    long, short = (w.optional(f"rope_factors_{name}.weight", n_rot // 2) for name in ("long", "short"))
    if long and short:
        original = w.count("rope.scaling.original_context_length", w.count("context_length"))
        return _values(long if n_ctx > original else short)
    if needed or long or short:
        raise ModelError("LongRoPE needs the tensors rope_factors_long.weight and rope_factors_short.weight")
    factors = w.optional("rope_freqs.weight", n_rot // 2)
    return _values(factors) if factors else 1.0


def _values(tensor: Tensor) -> np.ndarray:
    if tensor.type != "F32":
        raise ModelError(f"tensor {tensor.name} has type {tensor.type}, which must be F32")
    return tensor.data.view(np.float32)


def _yarn(w: Weights, freqs: np.ndarray, base: float, factor: float) -> tuple[np.ndarray, float]:
    """YaRN (Peng et al. 2023): high frequencies stay, low ones are stretched, those between are mixed."""
    n_rot, original = 2 * len(freqs), w.count("rope.scaling.original_context_length", w.count("context_length"))
    fast, slow = w.number("rope.scaling.yarn_beta_fast", 32.0), w.number("rope.scaling.yarn_beta_slow", 1.0)
    if w.number("rope.scaling.yarn_ext_factor", 1.0) != 1 or fast <= 0 or slow <= 0:
        raise ModelError(f"{w.prefix}rope.scaling.yarn_*: ggrun mixes by an ext_factor of 1 and betas above 0 only")

    def dimension(rotations: float) -> float:
        """The dimension that turns so many times over the original context."""
        return n_rot * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(dimension(fast))), min(n_rot - 1, math.ceil(dimension(slow)))
    ramp = np.clip((np.arange(n_rot // 2) - low) / max(0.001, high - low), 0, 1)
    return freqs * (1 - ramp) + freqs / factor * ramp, 1 + 0.1 * math.log(factor)

"""RoPE frequencies with the scalings that stretch a model's context."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ..loader import Tensor
from ..operations import RopeFrequencies
from .hparams import HParams, ModelError

_MOST = 1 << 16  # dimensions of a head; real ones have hundreds


def frequencies(
    w: HParams, layout: Literal["pairs", "halves"], n_rot: int, n_ctx: int, *, base: float = 0.0, scaled: bool = True,
    factors: bool = True, yarn_mu: float = 0.0,
) -> RopeFrequencies:  # fmt: skip
    """base^(-2i / n_rot) (Su et al. 2021), scaled as `rope.scaling.*` says.

    n_ctx: tokens that a text may have, on which LongRoPE's factors depend. base: 0 for that of `rope.freq_base`.
    scaled: False for layers that leave the scaling out. factors: False for those that leave the files' divisors out.
    yarn_mu: of YaRN's magnitude this part is in the scale of attention instead. Raises ModelError.
    """
    base = base or w.number("rope.freq_base", 10000.0)
    if base <= 1 or n_rot % 2 or n_rot > _MOST:
        raise ModelError(f"RoPE with base {base} over {n_rot} dimensions makes no sense")
    kind = w.text("rope.scaling.type", "linear")
    # a factor of 0 stands for none; the second key is its old name
    factor = w.number("rope.scaling.factor", 0.0, at_least=0) or w.number("rope.scale_linear", 0.0, at_least=0) or 1.0
    magnitude = w.number("rope.scaling.attn_factor", 1.0)
    freqs = base ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)
    if not scaled:
        return RopeFrequencies(layout, freqs)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if factors:
            freqs = freqs / _divisors(w, n_rot, n_ctx, needed=kind == "longrope")
        if kind != "yarn":
            w.ignore(*(f"rope.scaling.yarn_{name}" for name in ("beta_fast", "beta_slow", "ext_factor")))
        if kind == "yarn":
            freqs = _yarn(w, freqs, base, factor)
            magnitude *= yarn_magnitude(factor) / yarn_magnitude(factor, yarn_mu)
        elif kind in ("linear", "longrope"):
            freqs = freqs / factor
        elif kind != "none":
            known = "none, linear, yarn and longrope"
            raise ModelError(f"{w.prefix}rope.scaling.type is {kind!r}; ggrun knows {known}")
    if not (np.isfinite(freqs).all() and math.isfinite(magnitude)):
        raise ModelError("the RoPE frequencies that the file asks for are no numbers: it must be damaged")
    return RopeFrequencies(layout, freqs, magnitude)


def yarn_magnitude(factor: float, mu: float = 1.0) -> float:
    """By how much logits grow with a context that is stretched by a factor."""
    return 1 + 0.1 * mu * math.log(max(factor, 1.0))


def _divisors(w: HParams, n_rot: int, n_ctx: int, needed: bool) -> np.ndarray | float:
    """A divisor for each frequency, where the file has them.

    LongRoPE (Ding et al. 2024) has two sets, for contexts beyond the original one and for others; Llama 3.1 has one.
    """
    long, short = (w.optional(f"rope_factors_{name}.weight", n_rot // 2) for name in ("long", "short"))
    if long and short:
        original = w.count("rope.scaling.original_context_length", w.count("context_length"))
        return _values(long if n_ctx > original else short)
    if needed or long or short:
        raise ModelError("LongRoPE needs the tensors rope_factors_long.weight and rope_factors_short.weight")
    if not w.has(name := "rope_freqs.weight"):
        return 1.0
    divisors = _values(w.tensor(name, *w.shape(name)))
    if len(divisors) < n_rot // 2:
        raise ModelError(f"tensor {name} has {len(divisors)} values, but {n_rot} dimensions rotate")
    return divisors[: n_rot // 2]  # layers that rotate fewer dimensions use the first


def _values(tensor: Tensor) -> np.ndarray:
    if tensor.type != "F32":
        raise ModelError(f"tensor {tensor.name} has type {tensor.type}, which must be F32")
    return tensor.data.view(np.float32)


def _yarn(w: HParams, freqs: np.ndarray, base: float, factor: float) -> np.ndarray:
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
    return freqs * (1 - ramp) + freqs / factor * ramp

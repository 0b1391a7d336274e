"""Activation functions, on sixteen numbers at a time."""

from __future__ import annotations

from ..simd import divide, exp, inline, splat_f32


@inline
def silu(v):
    """x / (1 + e^-x)"""
    return divide(v, splat_f32(1.0) + exp(splat_f32(0.0) - v))

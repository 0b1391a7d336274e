"""Activation functions, on sixteen numbers at a time."""

from __future__ import annotations

from ..simd import absolute, divide, exp, inline, log, maximum, minimum, negative, splat_f32, sqrt


@inline
def sigmoid(v):
    """1 / (1 + e^-x)"""
    return divide(splat_f32(1.0), splat_f32(1.0) + exp(splat_f32(0.0) - v))


@inline
def silu(v):
    """x / (1 + e^-x)"""
    return divide(v, splat_f32(1.0) + exp(splat_f32(0.0) - v))


@inline
def tanh(v):
    """1 - 2 / (e^2x + 1)"""
    return splat_f32(1.0) - divide(splat_f32(2.0), exp(v + v) + splat_f32(1.0))


@inline
def gelu(v):
    """The form with tanh (Hendrycks & Gimpel 2016)."""
    inner = splat_f32(0.7978845608028654) * v * (splat_f32(1.0) + splat_f32(0.044715) * v * v)
    return splat_f32(0.5) * v * (splat_f32(1.0) + tanh(inner))


@inline
def relu(v):
    return maximum(v, splat_f32(0.0))


@inline
def softplus(v):
    """ln(1 + e^x): of u = 1 + z as ln(u)·z / (u - 1), exact where z is tiny."""
    z = exp(negative(absolute(v)))
    u = splat_f32(1.0) + z
    # where u - 1 is 0, ln(1 + z) is z: the quotient then has 1 on both sides
    tiny = maximum(splat_f32(0.0), splat_f32(1.0) - (u - splat_f32(1.0)) * splat_f32(1e30))
    grown = divide(log(u) * z + tiny * z, (u - splat_f32(1.0)) + tiny)
    return maximum(v, splat_f32(0.0)) + grown


@inline
def signed_sqrt(v, least):
    """√max(|x|, least), with the sign of x."""
    size = absolute(v)
    return divide(v, maximum(size, splat_f32(1e-37))) * sqrt(maximum(size, least))


@inline
def clamp(v, low, high):
    return minimum(maximum(v, low), high)


@inline
def clamped_silu(gate, up, limit):
    """gpt-oss: min(g, limit)·sigmoid(1.702·g)·(clamp(u) + 1)"""
    g, u = minimum(gate, limit), clamp(up, negative(limit), limit)
    return g * sigmoid(splat_f32(1.702) * g) * (u + splat_f32(1.0))


@inline
def xielu(v, alpha_n, alpha_p, beta, eps):
    """x > 0: αp·x² + β·x, else αn·(e^min(x, eps) - 1 - x) + β·x (Huang & Schlag 2024)."""
    above, below = maximum(v, splat_f32(0.0)), minimum(v, splat_f32(0.0))
    grown = alpha_n * (exp(minimum(below, eps)) - splat_f32(1.0) - below)
    return alpha_p * above * above + grown + beta * v

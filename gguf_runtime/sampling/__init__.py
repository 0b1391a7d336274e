"""Choosing the next token: llama.cpp's samplers, their defaults and their order."""

from .params import SAMPLERS, SamplingParams
from .sampler import Sampler

__all__ = ["SAMPLERS", "Sampler", "SamplingParams"]

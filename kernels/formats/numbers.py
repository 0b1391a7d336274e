"""F64, F32, F16, BF16 and integers: sixteen columns to a vector."""

from __future__ import annotations

from ..simd import load_bf16, load_f16, load_f32, load_f64, load_integers
from . import Format

F64 = Format.of("F64", load_f64)
F32 = Format.of("F32", load_f32)
F16 = Format.of("F16", load_f16)
BF16 = Format.of("BF16", load_bf16)
I8, I16, I32, I64 = (Format.of(f"I{bits}", load_integers(bits)) for bits in (8, 16, 32, 64))

"""F32, F16 and BF16: sixteen columns to a vector."""

from __future__ import annotations

from ..simd import load_bf16, load_f16, load_f32
from . import Format

F32 = Format(16, 64, load_f32)
F16 = Format(16, 32, load_f16)
BF16 = Format(16, 32, load_bf16)

"""SIMD vectors as Numba types, and the operations on them that kernels are written in.

A vector lives in registers: its Numba data model is an LLVM vector. Kernels always think in 512-bit
vectors (`f32x16`, `i8x64`, …); where registers are narrower, LLVM splits them. This package and `isa.py`
are the only ones that know instruction sets. Addresses are plain integers, in bytes; loads and stores
need no alignment. Only the compiler's own process imports this package.
"""

# ruff: noqa: F403
from .arithmetic import *
from .codebooks import *
from .dots import *
from .halves import *
from .lanes import *
from .memory import *
from .threads import *
from .tiles import *
from .vectors import *

"""Sizes and layouts in memory that kernels and the code that calls them agree on.

Activations that meet integer weights are quantised to *records* of 256 columns of one token:
    q      256 × i8    round(x / d), one d for each 32 columns
    d       16 × f32   d of each 16 columns (so each twice)
    sum16   16 × f32   d · Σq over each 16 columns
    sum32    8 × f32   the same over each 32 columns
    zeros    8 × f32   so that 16 lanes may be read from any of the sums
Records lie as [columns / 256][token], the last one filled up with zeros: the tokens that a kernel takes
together are side by side. Activations that meet float weights lie in records of 256 × f32 in the same order.
"""

from __future__ import annotations

COLUMNS = 256  # columns of one record
Q8_D, Q8_SUM16, Q8_SUM32 = 256, 320, 384  # offsets in bytes
Q8_BYTES = 448
F32_BYTES = 4 * COLUMNS

#: Tensor types with float weights; the others in FORMATS are dotted as integers.
FLOATS = frozenset({"F32", "F16", "BF16"})
#: Every tensor type that there are kernels for.
FORMATS = FLOATS | {
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
}  # fmt: skip

ROWS = 16  # rows of one tile of weights: the lanes of a vector
PAGE = 64  # tokens of one page of the KV cache
KV_TYPES = ("f16", "q8_0", "q4_0")  # of keys and values in it
KV_GROUP = 32  # dimensions of a head that share a scale, in types that are quantised
SCRATCH = 1 << 20  # bytes of scratch memory for each thread


def record_bytes(fmt: str) -> int:
    """Bytes of one activation record for weights of this type."""
    return F32_BYTES if fmt in FLOATS else Q8_BYTES


def head_bytes(kind: str, dim: int) -> int:
    """Bytes of one head's keys, or of its values, in a page; kernels/cpu/kv.py says how they lie there."""
    if kind == "f16":
        return 2 * PAGE * ((dim + 15) // 16 * 16)
    return PAGE * (dim // KV_GROUP) * {"q8_0": 34, "q4_0": 18}[kind]


OP_BYTES = 24  # of an operation in a program: kernel, arguments, whether the threads meet first
LINE = 64  # bytes of a cache line: what different threads write lies that far apart
MAX_TASK_ROWS = 128  # rows (heads × tokens) of one attention task

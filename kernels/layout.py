"""Sizes and layouts in memory that kernels and the code that calls them agree on.

Activations that meet integer weights are quantised: q = round(x / d), one d for each 32 columns of a token. They lie in
*records* of 256 columns, the last one of a row filled up with zeros.

For one token, "bytes", which a row of weights is laid along:
    q       256 × i8
    d        16 × f32   d of each 16 columns (so each twice), in woven order
    sums     16 × f32   d · Σq over each 16 columns, in woven order
For many, "byte_lanes": 16 tokens side by side, records as [columns / 256][tokens / 16]:
    q        64 × [16 tokens][4] × i8   four columns in each line
    d         8 × [16 tokens] × f32     of each 32 columns
    sums     16 × [16 tokens] × i32     Σq over each 16 columns
    apart     8 × [16 tokens] × f32     of each 32 columns the one, if any, kept apart (cpu/outliers.py): its q is 0
    masks     2 × 8 × i32               the bit of that column, or 0; twice, so that half the lanes find it as well
Activations that meet float weights are f32 in the same order: "floats", 256 × f32; "float_lanes", 256 × [16 tokens].
For BF16, where the CPU multiplies such: "bfloats", the same as "floats"; "bfloat_lanes", 128 × [16 tokens][2] × bf16.

Woven order: 16 groups of 16 columns, first those that begin the four vectors of 64 bytes, then the second of each …
"""

from __future__ import annotations

from .tensor_types import BY_NAME

COLUMNS = 256  # columns of one record
WOVEN = tuple(4 * (i % 4) + i // 4 for i in range(16))  # place → group; and group → place
LANES = 16  # tokens side by side
D, SUMS = 256, 320  # offsets in a record of bytes
LANES_D, LANES_SUMS, LANES_APART, LANES_MASKS = 4096, 4608, 5632, 6144  # and in one of byte_lanes
#: Bytes of a record in each form; those of lanes for 16 tokens.
RECORD_BYTES = {
    "bytes": 384, "floats": 1024, "bfloats": 1024, "byte_lanes": 6208, "float_lanes": 16384, "bfloat_lanes": 8192,
}  # fmt: skip

#: Every tensor type, all of which there are kernels for.
FORMATS = frozenset(BY_NAME)
#: Types of single numbers, which are multiplied as floats; the others are dotted as integers.
FLOATS = frozenset(kind.name for kind in BY_NAME.values() if kind.columns == 1)
#: Types of less than 8 bits, which large batches round to bytes (cpu/requantise.py).
ROUNDED = frozenset(kind.name for kind in BY_NAME.values() if kind.bytes < kind.columns)

PAGE = 64  # tokens of one page of the KV cache
#: Types of keys and values in it: tensor types, in small letters.
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
KV_GROUP = 32  # dimensions of a head that share a scale, in types that are quantised
SCRATCH = 1 << 20  # bytes of scratch memory for each thread


def head_bytes(kind: str, dim: int) -> int:
    """Bytes of one head's keys, or of its values, in a page; kernels/cpu/kv.py says how they lie there."""
    _, columns, n_bytes, _ = BY_NAME[kind.upper()]
    return PAGE * n_bytes * ((dim + 15) // 16 * 16 if columns == 1 else dim // columns)


MOST_EXPERTS = 8192
MOST_TOKENS = 480  # in lanes, that a thread multiplies at a time
PART_BYTES = 32  # of an expert's pairs, see cpu/routing.py
OP_BYTES = 40  # of an operation in a program: kernel, arguments, whether after a barrier, the next weights, their size
IDLE = 1 << 62  # the moment, in a program, of a thread that works on no operation: after all others
LINE = 64  # bytes of a cache line: what different threads write lies that far apart
MOST_BEST = 1024  # columns, that cpu/logits.py finds of a row
MOST_DISTANCE = 128  # of a key from a query, beyond which a bias by distance stays the same
MAX_TASK_ROWS = 128  # rows (heads × tokens) of one attention task

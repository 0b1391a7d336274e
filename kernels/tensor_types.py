"""Every tensor type of ggml: how many columns a block of it holds, and in how many bytes.

From ggml.h and ggml-common.h. Numbers that are missing belonged to types that ggml has removed.
"""

from __future__ import annotations

from typing import NamedTuple


class TensorType(NamedTuple):
    """A block holds `columns` consecutive values of a row in `bytes` bytes."""

    name: str
    columns: int
    bytes: int
    family: str  # the module of formats/ that unpacks it


#: The number that a file stores → the type.
TENSOR_TYPES: dict[int, TensorType] = {
    0: TensorType("F32", 1, 4, "numbers"),
    1: TensorType("F16", 1, 2, "numbers"),
    2: TensorType("Q4_0", 32, 18, "blocks32"),
    3: TensorType("Q4_1", 32, 20, "blocks32"),
    6: TensorType("Q5_0", 32, 22, "blocks32"),
    7: TensorType("Q5_1", 32, 24, "blocks32"),
    8: TensorType("Q8_0", 32, 34, "blocks32"),
    9: TensorType("Q8_1", 32, 36, "blocks32"),
    10: TensorType("Q2_K", 256, 84, "k_quants"),
    11: TensorType("Q3_K", 256, 110, "k_quants"),
    12: TensorType("Q4_K", 256, 144, "k_quants"),
    13: TensorType("Q5_K", 256, 176, "k_quants"),
    14: TensorType("Q6_K", 256, 210, "k_quants"),
    15: TensorType("Q8_K", 256, 292, "k_quants"),
    16: TensorType("IQ2_XXS", 256, 66, "iq2"),
    17: TensorType("IQ2_XS", 256, 74, "iq2"),
    18: TensorType("IQ3_XXS", 256, 98, "iq3"),
    19: TensorType("IQ1_S", 256, 50, "iq1"),
    20: TensorType("IQ4_NL", 32, 18, "iq4"),
    21: TensorType("IQ3_S", 256, 110, "iq3"),
    22: TensorType("IQ2_S", 256, 82, "iq2"),
    23: TensorType("IQ4_XS", 256, 136, "iq4"),
    24: TensorType("I8", 1, 1, "numbers"),
    25: TensorType("I16", 1, 2, "numbers"),
    26: TensorType("I32", 1, 4, "numbers"),
    27: TensorType("I64", 1, 8, "numbers"),
    28: TensorType("F64", 1, 8, "numbers"),
    29: TensorType("IQ1_M", 256, 56, "iq1"),
    30: TensorType("BF16", 1, 2, "numbers"),
    34: TensorType("TQ1_0", 256, 54, "few_bits"),
    35: TensorType("TQ2_0", 256, 66, "few_bits"),
    39: TensorType("MXFP4", 32, 17, "fp4"),
    40: TensorType("NVFP4", 64, 36, "fp4"),
    41: TensorType("Q1_0", 128, 18, "few_bits"),
    42: TensorType("Q2_0", 64, 18, "few_bits"),
}
#: The same by name.
BY_NAME = {kind.name: kind for kind in TENSOR_TYPES.values()}

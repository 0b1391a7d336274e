"""The source text of the CUDA kernels, as one string for each .cu file, and the kernels' names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np

from .. import codebooks

OPTIONS = ("-std=c++17",)
HOPPER = "-arch=sm_90a"  # for what no other GPU has; CuPy adds sm_90, and NVRTC from 12.9 on takes the more special one

#: Where each kernel is; templates are named with their arguments, as in "linear<Q4_K, Q6_K, 1>".
FILES = {
    "matvec": "matvec.cu", "matvec_gate": "matvec.cu", "matmul": "matmul.cu", "matmul_gate": "matmul.cu",
    "dequantise": "rows.cu", "embed": "rows.cu", "rms_norm": "rows.cu", "head_norm": "rows.cu",
    "activate": "rows.cu", "add_bias": "rows.cu", "gather": "rows.cu", "angles": "rows.cu",
    "rotate_and_save": "rows.cu", "over": "elementwise.cu", "norm": "elementwise.cu", "rope": "elementwise.cu",
    "pack_rows": "elementwise.cu", "scale_by_position": "elementwise.cu", "attend_any": "any_attention.cu",
    "softmax": "elementwise.cu", "sparse": "elementwise.cu", "sinkhorn": "elementwise.cu",
    "conv": "recurrence.cu", "shift": "recurrence.cu", "scan": "recurrence.cu", "pool": "recurrence.cu",
    "linear_floats": "experts.cu", "route": "experts.cu",
    "group_pairs": "experts.cu", "expert_matmul": "experts.cu", "expert_gate": "experts.cu", "combine": "experts.cu",
    "arrange": "prefill_matmul.cu", "prompt": "prefill_matmul.cu",
    "attend_one": "attention.cu", "attend_many": "attention.cu", "attend_prompt": "prefill_attention.cu",
    "save": "kv.cu", "retile": "retile.cu", "retile_floats": "retile.cu",
}  # fmt: skip

CODEBOOKS = "codebooks.cuh"  # is written here
_INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)


def options(kernel: str) -> tuple[str, ...]:
    """What to compile a kernel with."""
    return (*OPTIONS, HOPPER) if FILES[kernel.partition("<")[0]].startswith("prefill") else OPTIONS


@cache
def source(kernel: str) -> str:
    """The source of a kernel's file with all that it includes, each once: a compiler's cache sees every change."""
    return read(FILES[kernel.partition("<")[0]], set())


def read(name: str, seen: set[str]) -> str:
    """The text of a file with all that it includes but what was seen, which these are added to."""
    if name in seen:
        return ""
    seen.add(name)
    if name == CODEBOOKS:
        return _codebooks()
    text = Path(__file__).with_name(name).read_text("utf-8").replace("#pragma once\n", "")
    return _INCLUDE.sub(lambda match: read(match[1], seen), text)


@cache
def _codebooks() -> str:
    """The codebooks of formats_codebooks.cuh, as arrays of constants."""
    packed = codebooks.points("IQ1").astype(np.uint16) << 2 * np.arange(8, dtype=np.uint16)
    arrays = [("u16", "iq1", [f"{point}" for point in packed.sum(axis=1)])]
    for name, steps in codebooks.STEPS.items():
        points = (np.array(steps) + max(steps)).astype(np.uint8)[codebooks.points(name)].view(np.uint32)
        if points.shape[1] == 1:
            arrays.append(("u32", name.lower(), [f"{point}" for point in points[:, 0]]))
        else:
            arrays.append(("uint2", name.lower(), [f"{{{low},{high}}}" for low, high in points]))
    return "".join(
        f"[[maybe_unused]] __device__ const {kind} {name}[{len(values)}] = {{{','.join(values)}}};\n"
        for kind, name, values in arrays
    )

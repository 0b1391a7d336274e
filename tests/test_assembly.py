"""Instruction sets that this CPU may lack: their kernels compile, into the instructions meant."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gguf_runtime.kernels.isa import TARGET_VARIABLE

#: Instruction set → what its product of bytes must contain.
WANTED = {
    ("amx", "x86_64"): ["tdpbf16ps"],
    ("avx512bf16", "x86_64"): ["vpdpbusd", "%zmm"],
    ("avx512vnni", "x86_64"): ["vpdpbusd", "%zmm"],
    ("avx512", "x86_64"): ["vpmaddubsw", "%zmm"],
    ("avxvnni", "x86_64"): ["{vex}\tvpdpbusd", "%ymm"],
    ("avx2", "x86_64"): ["vpmaddubsw", "%ymm"],
    ("neon-i8mm", "aarch64"): ["usdot"],
    ("neon-dot", "aarch64"): ["sdot"],
    ("generic", "aarch64"): ["mla"],
}
COMPILE = """
import sys
from gguf_runtime.kernels import compiler
for name in sys.argv[1:]:
    print(compiler.assemble(name, text=True)[1])
"""


@pytest.mark.parametrize(("name", "arch"), WANTED)
def test_products_become_the_instructions_meant(name: str, arch: str) -> None:
    kernels = ["matvec.linear:Q8_0:1", "matmul.linear:Q4_K:tiles" if name == "amx" else "matmul.linear:Q4_K"]
    environment = os.environ | {TARGET_VARIABLE: f"{arch} {name}"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE, *kernels], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for text in WANTED[name, arch]:
        assert text in result.stdout

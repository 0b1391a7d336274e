"""Which instructions this CPU has, and what LLVM must be told to use them.

An `Isa` is one way to compile every kernel. `detect()` gives the best one for this machine;
the environment variable GGRUN_ISA forces another that it can run.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import NamedTuple

from .features import flags


class Isa(NamedTuple):
    """An instruction set: its name, LLVM's CPU and features for it, and the CPU flags it needs."""

    name: str
    arch: str  # "x86_64" or "aarch64"
    llvm_cpu: str
    llvm_features: str
    flags: frozenset[str]  # by Linux's names; features.py finds them
    dot: str  # which instruction `simd.dot4` becomes
    half: bool  # can convert f16 in hardware
    n_registers: int  # 512-bit vectors that fit the register file

    @property
    def scales(self) -> bool:
        """Whether one instruction multiplies a float by a power of two."""
        return "avx512f" in self.flags

    @property
    def byte_registers(self) -> int:
        """Bytes of the vectors that instructions shuffle bytes within, 16 at a time, and compare; 0: not known to."""
        return 64 if "avx512bw" in self.flags else 32 if "avx2" in self.flags else 0

    @property
    def dots_bytes(self) -> bool:
        """Whether one instruction adds up products of four bytes, of all 8 bits."""
        return self.dot in ("vpdpbusd", "avxvnni", "usdot")

    @property
    def dots_bfloats(self) -> bool:
        """Whether one instruction adds up products of pairs of bf16."""
        return "avx512_bf16" in self.flags

    @property
    def has_tiles(self) -> bool:
        """Whether one instruction multiplies matrices of bf16."""
        return "amx_bf16" in self.flags


def _x86(name: str, cpu: str, features: str, flags: str, dot: str, n_registers: int) -> Isa:
    has = frozenset(flags.split())
    return Isa(name, "x86_64", cpu, features, has, dot, "f16c" in has, n_registers)


def _arm(name: str, features: str, flags: str, dot: str) -> Isa:
    # macOS and Windows keep x18 to themselves
    return Isa(name, "aarch64", "generic", f"{features},+reserve-x18", frozenset(flags.split()), dot, True, 8)


# all that LLVM's x86-64-v2, -v3 and -v4 may use
_V2 = "ssse3 sse4_1 sse4_2 popcnt"
_AVX2 = f"{_V2} avx2 fma f16c bmi1 bmi2 abm movbe"
_AVX512 = f"{_AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"
_BF16 = f"{_AVX512} avx512_vnni avx512_bf16"

#: Best first; each machine takes the first whose flags it has.
ISAS = (
    _x86(
        "amx", "x86-64-v4", "+avx512vnni,+avx512bf16,+amx-tile,+amx-bf16,-prefer-256-bit", f"{_BF16} amx_tile amx_bf16",
        "vpdpbusd", 32,
    ),
    _x86("avx512bf16", "x86-64-v4", "+avx512vnni,+avx512bf16,-prefer-256-bit", _BF16, "vpdpbusd", 32),
    _x86("avx512vnni", "x86-64-v4", "+avx512vnni,-prefer-256-bit", f"{_AVX512} avx512_vnni", "vpdpbusd", 32),
    _x86("avx512", "x86-64-v4", "-prefer-256-bit", _AVX512, "maddubs512", 32),
    _x86("avxvnni", "x86-64-v3", "+avxvnni", f"{_AVX2} avx_vnni", "avxvnni", 8),
    _x86("avx2", "x86-64-v3", "", _AVX2, "maddubs256", 8),
    _arm("neon-i8mm", "+dotprod,+i8mm", "asimddp i8mm", "usdot"),
    _arm("neon-dot", "+dotprod", "asimddp", "sdot"),
    _x86("generic", "x86-64-v2", "", _V2, "", 4),
    _arm("generic", "+neon", "", ""),
)
#: Set by who starts a compiler: the architecture and name of what it is to compile for, whatever machine it runs on.
TARGET_VARIABLE = "GGRUN_TARGET"


def machine() -> str:
    """The architecture of this process: "x86_64" or "aarch64" where it is one of these."""
    name = platform.machine().lower() if sys.platform == "win32" else os.uname().machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def runnable() -> list[Isa]:
    """The instruction sets that this machine can run, best first."""
    arch = machine()
    if not any(isa.arch == arch for isa in ISAS):
        raise ValueError(f"there are no CPU kernels for {arch}: ggrun runs on x86-64 and 64-bit Arm")
    has = flags(arch)
    isas = [isa for isa in ISAS if isa.arch == arch and isa.flags <= has]
    if not isas:
        raise ValueError("there are no CPU kernels for so old a CPU: ggrun needs SSE4.2")
    return isas


def detect() -> Isa:
    """The instruction set to compile for: GGRUN_ISA where set, else the best that this CPU has.

    Raises ValueError where GGRUN_ISA names one that this machine cannot run, or there is none.
    """
    isas = runnable()
    wanted = os.environ.get("GGRUN_ISA")
    if not wanted:
        return isas[0]
    for isa in isas:
        if isa.name == wanted:
            return isa
    raise ValueError(f"GGRUN_ISA={wanted}: this CPU runs {', '.join(i.name for i in isas)}")


def target() -> Isa:
    """What a compiler's process compiles for."""
    if not (wanted := os.environ.get(TARGET_VARIABLE)):
        return detect()
    return next(isa for isa in ISAS if f"{isa.arch} {isa.name}" == wanted)

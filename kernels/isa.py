"""Which instructions this CPU has, and what LLVM must be told to use them.

An `Isa` is one way to compile every kernel. `detect()` gives the best one for this machine;
the environment variable GGRUN_ISA forces another that it can run.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import NamedTuple


class Isa(NamedTuple):
    """An instruction set: its name, LLVM's CPU and features for it, and the CPU flags it needs."""

    name: str
    arch: str  # "x86_64" or "aarch64"
    llvm_cpu: str
    llvm_features: str
    flags: frozenset[str]  # as Linux names them in /proc/cpuinfo
    dot: str  # which instruction `simd.dot4` becomes
    half: bool  # can convert f16 in hardware
    n_registers: int  # 512-bit vectors that fit the register file

    def has(self, flags: frozenset[str]) -> bool:
        return self.flags <= flags

    @property
    def scales(self) -> bool:
        """Whether one instruction multiplies a float by a power of two."""
        return "avx512f" in self.flags

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


_AVX2 = "avx2 fma f16c bmi2"
_AVX512 = f"{_AVX2} avx512f avx512bw avx512dq avx512vl"
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
    _x86("generic", "x86-64-v2", "", "ssse3 sse4_1", "", 4),
    _arm("generic", "+neon", "", ""),
)
#: Flag → its entry of the auxiliary vector (AT_HWCAP, AT_HWCAP2) and its bit there: Linux's asm/hwcap.h.
_ARM_FLAGS = {"asimddp": (16, 20), "i8mm": (26, 13)}


def machine() -> str:
    """The architecture of this process: "x86_64" or "aarch64" where it is one of these."""
    name = platform.machine().lower() if sys.platform == "win32" else os.uname().machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags, by Linux's names."""
    if sys.platform == "linux" and machine() == "aarch64":
        # what the kernel told this process; under emulation /proc/cpuinfo is of another machine
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        return frozenset(name for name, (entry, bit) in _ARM_FLAGS.items() if getauxval(entry) >> bit & 1)
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("flags"):
                    flags = frozenset(line.split(":", 1)[1].split())
                    return flags if _tiles_allowed(flags) else flags - {"amx_tile"}
        return frozenset()
    # elsewhere ask LLVM, whose import costs 60 ms
    import llvmlite.binding as llvm

    renamed = {"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16", "avxvnni": "avx_vnni", "dotprod": "asimddp"}
    features = llvm.get_host_cpu_features()
    return frozenset(renamed.get(name, name) for name, present in features.items() if present)


def _tiles_allowed(flags: frozenset[str]) -> bool:
    """Ask Linux to let this process use tiles, where there are such: arch_prctl's ARCH_REQ_XCOMP_PERM, since 5.16."""
    if "amx_tile" not in flags:
        return False
    return ctypes.CDLL(None).syscall(ctypes.c_long(158), ctypes.c_long(0x1023), ctypes.c_long(18)) == 0


def runnable() -> list[Isa]:
    """The instruction sets that this machine can run, best first."""
    flags, arch = cpu_flags(), machine()
    if not any(isa.arch == arch for isa in ISAS):
        raise ValueError(f"there are no CPU kernels for {arch}: ggrun runs on x86-64 and 64-bit Arm")
    return [isa for isa in ISAS if isa.arch == arch and isa.has(flags)]


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

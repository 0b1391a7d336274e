"""What this CPU can do, asked of the CPU itself where it can be asked, and else of the system.

x86-64's CPUs answer `cpuid`; what it says holds in containers and under emulators, whose /proc/cpuinfo is another
machine's. 64-bit Arm's do not let programs ask, so their systems tell. Flags have Linux's names.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import numpy as np

from .memory import Executable, address

#: (leaf, subleaf, register) of cpuid → flags by their bits. Intel 64 and IA-32 Architectures Software Developer's
#: Manual, volume 2, CPUID; AMD64 Architecture Programmer's Manual, volume 3, appendix E.
_EAX, _EBX, _ECX, _EDX = range(4)
_X86 = {
    (1, 0, _ECX): {9: "ssse3", 12: "fma", 19: "sse4_1", 20: "sse4_2", 22: "movbe", 23: "popcnt", 29: "f16c"},
    (7, 0, _EBX): {3: "bmi1", 5: "avx2", 8: "bmi2", 16: "avx512f", 17: "avx512dq", 28: "avx512cd", 30: "avx512bw",
                   31: "avx512vl"},
    (7, 0, _ECX): {11: "avx512_vnni"},
    (7, 0, _EDX): {22: "amx_bf16", 24: "amx_tile"},
    (7, 1, _EAX): {4: "avx_vnni", 5: "avx512_bf16"},
    (0x80000001, 0, _ECX): {5: "abm"},
}  # fmt: skip
_OSXSAVE = 1 << 27  # of leaf 1's ECX: the system has told the CPU which registers it saves
#: Flags that begin so → the registers that the system must save for them: bits of XCR0.
_SAVED = {"amx": 0x60000, "avx512": 0xE6, "avx": 0x6, "fma": 0x6, "f16c": 0x6}
#: Flag of 64-bit Arm → (entry of Linux's auxiliary vector: AT_HWCAP, AT_HWCAP2; its bit there: Linux's asm/hwcap.h),
#: macOS's name for it, Windows's number for it (winnt.h).
_ARM = {"asimddp": (16, 20, b"FEAT_DotProd", 43), "i8mm": (26, 13, b"FEAT_I8MM", 66)}


def flags(arch: str) -> frozenset[str]:
    """The flags of this CPU that instruction sets may need. Raises OSError where the system forbids to ask it."""
    return _x86() if arch == "x86_64" else _arm() if arch == "aarch64" else frozenset()


# --- x86-64 --------------------------------------------------------------------------------------


def _x86() -> frozenset[str]:
    cpuid, xgetbv = _function(_CPUID), _function(_XGETBV)
    most = {0: cpuid(0, 0)[_EAX], 0x80000000: cpuid(0x80000000, 0)[_EAX]}
    most_of_7 = cpuid(7, 0)[_EAX] if most[0] >= 7 else 0
    found = set()
    for (leaf, subleaf, register), names in _X86.items():
        if leaf <= most[leaf & 0x80000000] and (leaf != 7 or subleaf <= most_of_7):
            value = cpuid(leaf, subleaf)[register]
            found |= {name for bit, name in names.items() if value >> bit & 1}
    saved = xgetbv(0, 0)[0] if cpuid(1, 0)[_ECX] & _OSXSAVE else 0
    if sys.platform == "darwin" and saved & 0x6 == 0x6:  # macOS begins to save the rest when it is first used
        saved |= 0xE6
    found = {name for name in found if saved & (needed := _registers(name)) == needed}
    if "amx_tile" in found and not _tiles_allowed():
        found.remove("amx_tile")
    return frozenset(found)


def _registers(flag: str) -> int:
    return next((bits for start, bits in _SAVED.items() if flag.startswith(start)), 0)


def _tiles_allowed() -> bool:
    """Ask Linux to let this process use tiles: arch_prctl's ARCH_REQ_XCOMP_PERM, since 5.16. No other system does."""
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(*map(ctypes.c_long, (158, 0x1023, 18))) == 0


# Both functions take (leaf, subleaf, u32[4]); by Windows's convention they come in ecx, edx, r8, elsewhere in edi, esi,
# rdx. push rbx; …; cpuid; mov [r8], eax; mov [r8 + 4], ebx; mov [r8 + 8], ecx; mov [r8 + 12], edx; pop rbx; ret
_CPUID = (
    "53" + ("89c8 89d1" if sys.platform == "win32" else "4989d0 89f8 89f1")
    + "0fa2 418900 41895804 41894808 4189500c 5b c3"
)  # fmt: skip
# xor ecx, ecx; xgetbv; mov [r8], eax; ret
_XGETBV = ("" if sys.platform == "win32" else "4989d0") + "31c9 0f01d0 418900 c3"


def _function(code: str) -> Callable[[int, int], list[int]]:
    memory, out = Executable(bytes.fromhex(code)), np.zeros(4, np.uint32)
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(memory.address)

    def call(leaf: int, subleaf: int, _keep: Executable = memory) -> list[int]:
        function(leaf, subleaf, address(out))
        return out.tolist()

    return call


# --- 64-bit Arm ----------------------------------------------------------------------------------


def _arm() -> frozenset[str]:
    return frozenset(name for name, entry in _ARM.items() if _has(*entry))


def _has(entry: int, bit: int, darwin: bytes, windows: int) -> bool:
    if sys.platform == "win32":
        return bool(ctypes.WinDLL("kernel32").IsProcessorFeaturePresent(windows))
    libc = ctypes.CDLL(None)
    if sys.platform == "darwin":
        value, size = ctypes.c_int(0), ctypes.c_size_t(4)
        libc.sysctlbyname(b"hw.optional.arm." + darwin, ctypes.byref(value), ctypes.byref(size), None, 0)
        return value.value == 1
    libc.getauxval.restype, libc.getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return bool(libc.getauxval(entry) >> bit & 1)

"""From an ELF object file to a flat image: code and constants side by side, relocated, ready to be mapped.

LLVM is asked for position-independent ELF on every system, so that one small linker does for all. Layouts:
the ELF-64 specification and the x86-64 and AArch64 supplements to it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_ALLOC = 0x2  # the section is part of the program in memory
_SYMTAB, _RELA, _NOBITS = 2, 4, 8


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


def link(obj: bytes, entry: str) -> tuple[bytes, int]:
    """Lay out an object file's sections and resolve its relocations; gives (image, offset of `entry`).

    The image may be placed at any page boundary. Raises ValueError for a symbol that the object does
    not define itself, or a relocation of a kind that position-independent kernels do not need.
    """
    machine = struct.unpack_from("<H", obj, 18)[0]
    table_offset = struct.unpack_from("<Q", obj, 40)[0]
    entry_size, n_sections = struct.unpack_from("<HH", obj, 58)
    sections = [
        _Section(*struct.unpack_from("<IIQQQQIIQQ", obj, table_offset + i * entry_size)) for i in range(n_sections)
    ]
    image, placed = bytearray(), {}
    for i, s in enumerate(sections):
        if s.flags & _ALLOC and s.size:
            image += bytes(-len(image) % max(s.align, 64))
            placed[i] = len(image)
            image += bytes(s.size) if s.type == _NOBITS else obj[s.offset : s.offset + s.size]
    symbols: list[tuple[str, int | None]] = []  # name, offset in the image
    for s in sections:
        if s.type == _SYMTAB:
            strings = sections[s.link].offset
            for at in range(s.offset, s.offset + s.size, 24):
                name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", obj, at)
                text = obj[strings + name : obj.index(b"\0", strings + name)].decode()
                symbols.append((text, placed[section] + value if section in placed else None))
    for s in sections:
        if s.type == _RELA and s.info in placed:
            for at in range(s.offset, s.offset + s.size, 24):
                where, info, addend = struct.unpack_from("<QQq", obj, at)
                name, value = symbols[info >> 32]
                if value is None:
                    raise ValueError(f"a kernel refers to {name!r}, which lies outside it")
                _relocate(image, machine, info & 0xFFFFFFFF, placed[s.info] + where, value + addend)
    return bytes(image), next(value for name, value in symbols if name == entry and value is not None)


def _relocate(image: bytearray, machine: int, kind: int, at: int, target: int) -> None:
    if machine == 62 and kind in (2, 4):  # R_X86_64_PC32, R_X86_64_PLT32
        struct.pack_into("<i", image, at, target - at)
        return
    if machine == 183 and kind == 261:  # R_AARCH64_PREL32
        struct.pack_into("<i", image, at, target - at)
        return
    if machine == 183:
        word = struct.unpack_from("<I", image, at)[0]
        if kind == 275:  # R_AARCH64_ADR_PREL_PG_HI21
            pages = ((target >> 12) - (at >> 12)) & 0x1FFFFF
            word |= (pages & 3) << 29 | (pages >> 2) << 5
        elif kind in (277, 278, 284, 285, 286, 299):  # ADD and LDST8…128 _ABS_LO12_NC
            scale = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}[kind]
            word |= ((target & 0xFFF) >> scale) << 10
        elif kind in (282, 283):  # R_AARCH64_JUMP26, CALL26
            word |= ((target - at) >> 2) & 0x3FFFFFF
        else:
            raise ValueError(f"relocation {kind} is not supported")
        struct.pack_into("<I", image, at, word)
        return
    raise ValueError(f"relocation {kind} of machine {machine} is not supported")

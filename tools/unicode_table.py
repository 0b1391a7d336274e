"""Writes gguf_runtime/tokenizer/unicode_table.py: python3.13 tools/unicode_table.py

The classes of characters have to be those of llama.cpp's table, whatever Python runs: that table is of Unicode 15.1,
which Python 3.13 has; for others there is the package unicodedata2.
"""

from __future__ import annotations

import textwrap
import unicodedata
from itertools import groupby
from pathlib import Path

VERSION = "15.1.0"
TARGET = Path(__file__).resolve().parents[1] / "gguf_runtime" / "tokenizer" / "unicode_table.py"
HEADER = f'''"""Unicode {VERSION}'s general categories, as in llama.cpp's table. Written by tools/unicode_table.py."""

VERSION = "{VERSION}"
#: Runs of characters from U+0000 on: the first letter of their category, C for all others, and how many in hexadecimal;
#: for one alone, the letter only.
RUNS = (
'''


def runs(category: object = unicodedata.category) -> str:
    """All characters, as RUNS has them."""
    classes = (category(chr(code))[0] for code in range(0x110000))  # type: ignore[operator]
    grouped = groupby(letter if letter in "LNMPS" else "C" for letter in classes)
    return "".join(f"{letter}{n:x}" if (n := sum(1 for _ in run)) > 1 else letter for letter, run in grouped)


def main() -> None:
    if unicodedata.unidata_version != VERSION:
        raise SystemExit(f"this Python has Unicode {unicodedata.unidata_version}, and {VERSION} is needed")
    lines = textwrap.wrap(runs(), 112)
    TARGET.write_text(HEADER + "".join(f'    "{line}"\n' for line in lines) + ")\n", "utf-8")


if __name__ == "__main__":
    main()

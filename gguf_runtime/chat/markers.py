"""Markers in what templates write: what stands between angle brackets, or capitals between square ones."""

from __future__ import annotations

import re

#: The first: Kimi K3's, with a name in the middle. The last: one that has only begun.
MARKER = re.compile(r"<\|(?:open|close)\|>[^<]*<\|sep\|>|<[^<>]*>|\[/?[A-Z][A-Z_ ]+\]|<[^<>]*$")


def cut_back(text: str, at: int) -> int:
    """Where to cut instead, before the marker, if that would be within one."""
    return next((found.start() for found in MARKER.finditer(text) if found.start() < at < found.end()), at)


def cut_on(text: str, at: int) -> int:
    """Where to cut instead, after the marker, if that would be within one."""
    return next((found.end() for found in MARKER.finditer(text) if found.start() < at < found.end()), at)

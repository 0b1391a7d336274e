"""Where the cases are that others wrote: ../shared, which a checkout of the project alone does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def needs(path: Path) -> pytest.MarkDecorator:
    """A mark that skips a test, and says why, where `path` is absent."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path.name} is not here: it comes with ../shared")

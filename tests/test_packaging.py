"""What gets installed."""

import re
import tomllib
from pathlib import Path

import gguf_runtime

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_is_listed_for_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    files = [file for folder in ("gguf_runtime", "kernels", "models") for file in (ROOT / folder).rglob("*.py")]
    names = {".".join(file.parent.relative_to(ROOT).parts) for file in files}
    packages = {re.sub(r"^(kernels|models)", r"gguf_runtime.\1", name) for name in names}
    assert set(settings["packages"]) == packages


def test_kernels_are_a_part_of_gguf_runtime():
    import gguf_runtime.kernels as kernels

    assert kernels.__name__ == "gguf_runtime.kernels"
    assert re.fullmatch(r"\d+\.\d+\.\d+", gguf_runtime.__version__)

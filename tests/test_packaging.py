"""What gets installed."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import gguf_runtime
from gguf_runtime.kernels.isa import detect

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_is_listed_for_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    files = [file for folder in ("gguf_runtime", "kernels", "models") for file in (ROOT / folder).rglob("*.py")]
    names = {".".join(file.parent.relative_to(ROOT).parts) for file in files}
    packages = {re.sub(r"^(kernels|models)", r"gguf_runtime.\1", name) for name in names}
    assert set(settings["packages"]) == packages


def test_the_web_chat_is_packaged_whole():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert settings["package-data"]["gguf_runtime.server"] == ["web/*"]
    assert all(entry.is_file() for entry in (ROOT / "gguf_runtime" / "server" / "web").iterdir())


def test_kernels_are_a_part_of_gguf_runtime():
    import gguf_runtime.kernels as kernels

    assert kernels.__name__ == "gguf_runtime.kernels"
    assert re.fullmatch(r"\d+\.\d+\.\d+", gguf_runtime.__version__)


@pytest.mark.skipif(find_spec("wheel") is None, reason="needs the package wheel")
def test_a_wheel_with_kernels_compiles_nothing_for_the_first_answer(smollm2: Path, tmp_path: Path):
    isa = detect().name
    build = [sys.executable, "tools/wheel.py", str(tmp_path), "--types=Q4_1,Q8_0", f"--isas={isa}"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("ggrun-") and not wheel.name.endswith("-any.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    cache = tmp_path / "cache"
    # guesses too: a text that repeats itself
    command = [sys.executable, "-m", "gguf_runtime", "-m", str(smollm2), "-p", "a b c a b c a b c", "-n", "24"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "GGRUN_CACHE": str(cache), "GGRUN_ISA": isa}
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, input="")
    assert ran.returncode == 0 and ran.stderr == "" and ran.stdout.strip()
    assert not (cache / "kernels").exists()

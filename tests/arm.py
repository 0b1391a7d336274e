"""The kernels' tests on 64-bit Arm, under qemu-user on a Debian of another kind: `make test-arm`.

Arm's Python comes from Debian's archive and its libraries from PyPI, into a folder beside this Python's. Kernels are
compiled out here, by this Python: under emulation LLVM is ten times slower. `python tests/arm.py FOLDER ARGUMENT…`
runs pytest with other arguments.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ["numpy", "gguf", "hypothesis", "pytest"]
PLATFORMS = [f"--platform=manylinux{version}_aarch64" for version in ("_2_28", "_2_17", "2014")]
INSIDE = """
import sys
sys.path[:0] = [sys.argv[1]]
import gguf_runtime
gguf_runtime.__path__.append(sys.argv[1])  # where kernels and models lie
from tests import arm
arm.inside(sys.argv[2:])
"""


def install(folder: Path) -> Path:
    """Unpack Arm's Python and the libraries; returns the Python."""
    python = folder / "root/usr/bin/python3"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("lists/partial", "archives/partial", "root"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        settings = {
            "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Install-Recommends": "false",
            "Dir::State": folder, "Dir::State::status": folder / "status", "Dir::Cache": folder,
        }  # fmt: skip
        apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "install", "--yes", "--download-only", "python3", "libstdc++6"], check=True)
        for package in sorted(folder.glob("archives/*.deb")):
            subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
        version = python.resolve().name.removeprefix("python")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"--python-version={version}"]
        subprocess.run([*pip, *PLATFORMS, f"--target={folder / 'site'}", *LIBRARIES], check=True)
        (folder / "ready").touch()
    return python


def inside(arguments: list[str]) -> None:
    """Under emulation: run pytest, with kernels compiled outside."""
    import pytest

    from gguf_runtime.kernels import compilers

    compilers.command = lambda: json.loads(os.environ["OUTSIDE"])
    sys.exit(pytest.main([*arguments, "-p", "no:cacheprovider"]))


def main(folder: Path, arguments: list[str]) -> int:
    if missing := [name for name in ("qemu-aarch64", "apt-get", "dpkg") if not shutil.which(name)]:
        print(f"test-arm needs {' and '.join(missing)}: it runs on Debian with the package qemu-user", file=sys.stderr)
        return 1
    python = install(folder)
    outside = ["env", "-u", "PYTHONPATH", sys.executable, "-P", "-m", "gguf_runtime.kernels.compiler"]
    settings = {
        "QEMU_LD_PREFIX": str(folder / "root"), "QEMU_CPU": "max", "PYTHONPATH": str(folder / "site"),
        "PYTHONDONTWRITEBYTECODE": "1", "GGRUN_CACHE": str(folder / "cache"), "OUTSIDE": json.dumps(outside),
    }  # fmt: skip
    command = ["qemu-aarch64", python, "-P", "-c", INSIDE, ROOT, *arguments]
    return subprocess.run(command, env=os.environ | settings, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:] or ["tests/test_kernels.py"]))

"""The tests that touch each dependency, with the oldest versions that pyproject.toml allows on the oldest Python, and
with the newest on the newest: `make test-lowest`. With --short the former alone.

Each Python found gets an environment of its own; one that is not here is skipped, and said.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = [sys.executable, "-m", "uv"]
RUNS = {"3.11": "lowest-direct", "3.13": "highest"}
TOOLS = ["gguf", "hypothesis", "jsonschema", "pyte", "pytest"]
#: One or more for each dependency: llguidance; Jinja; numba, llvmlite and NumPy; click and rich; prompt_toolkit;
#: huggingface_hub and filelock.
TESTS = [
    "tests/test_constraint.py", "tests/test_chat_template.py", "tests/test_code.py", "tests/test_cli.py",
    "tests/test_cli_chat.py", "tests/test_markdown.py", "tests/test_store.py",
]  # fmt: skip


def find(version: str) -> str | None:
    """An interpreter on this machine: one that uv knows, or one of pyenv's."""
    command = [*UV, "python", "find", "--quiet", "--no-python-downloads", version]
    known = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    return known or next(map(str, sorted(pyenv.glob(f"{version}.*/bin/python"))), None)


def check(python: str, resolution: str, folder: Path) -> int:
    inside = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [*UV, "pip", "install", "--quiet", "--python", str(inside)]
    subprocess.run([*UV, "venv", "--quiet", "--python", python, str(folder)], check=True)
    subprocess.run([*install, f"--resolution={resolution}", "-e", str(ROOT)], check=True)
    kept = folder / "kept.txt"
    freeze = [*UV, "pip", "freeze", "--quiet", "--exclude-editable", "--python", str(inside)]
    kept.write_text(subprocess.run(freeze, check=True, stdout=subprocess.PIPE, text=True).stdout)
    subprocess.run([*install, f"--constraint={kept}", *TOOLS], check=True)
    return subprocess.run([str(inside), "-m", "pytest", "-p", "no:cacheprovider", *TESTS], cwd=ROOT).returncode


def main(short: bool) -> int:
    failed = 0
    for python, resolution in list(RUNS.items())[: 1 if short else None]:
        if not (found := find(python)):
            print(f"test-lowest: skipped {resolution} on Python {python}: there is none here", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            failed |= check(found, resolution, Path(folder))
    return failed


if __name__ == "__main__":
    sys.exit(main("--short" in sys.argv))

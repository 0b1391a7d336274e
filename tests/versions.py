"""The tests that touch each dependency, with the oldest versions that pyproject.toml allows on the oldest Python, and
with the newest on the newest: `make test-lowest`. With --short the former alone.

Each Python that uv finds gets an environment of its own; one that it does not find is skipped, and said.
"""

from __future__ import annotations

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


def has(python: str) -> bool:
    return subprocess.run([*UV, "python", "find", "--quiet", python], stdout=subprocess.DEVNULL).returncode == 0


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
        if not has(python):
            print(f"test-lowest: skipped {resolution} on Python {python}: uv finds none", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            failed |= check(python, resolution, Path(folder))
    return failed


if __name__ == "__main__":
    sys.exit(main("--short" in sys.argv))

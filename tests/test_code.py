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

from gguf_runtime.kernels import code, isa
from gguf_runtime.kernels.code import Library
from gguf_runtime.kernels.team import Team

USE = """
import sys
import numpy as np
from gguf_runtime.kernels.code import Library
a, out = np.arange(40, dtype=np.float32), np.zeros(40, np.float32)
Library().get("rows.add")(a=a, b=a, out=out, n_columns=40, n_tokens=np.array([1]))
assert (out == 2 * a).all()
print("numba" in sys.modules, "llvmlite" in sys.modules)
"""


def use_kernel(cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"GGRUN_CACHE": str(cache)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", USE], env=environment, **pipes)


def outcome(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    assert error == ""  # no terminal, so no progress
    return out.strip()


def test_processes_that_start_together_then_a_damaged_file(tmp_path: Path) -> None:
    assert [outcome(p) for p in [use_kernel(tmp_path) for _ in range(3)]] == ["False False"] * 3
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    good = file.read_bytes()
    for damaged in (b"", good[:20], good[:-1], good[:-9] + bytes(9), b"x" + good[1:]):
        file.write_bytes(damaged)
        assert outcome(use_kernel(tmp_path)) == "False False"
        assert file.read_bytes()[:15] == good[:15]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert outcome(use_kernel(tmp_path / "file")) == "False False"


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
    with pytest.raises(RuntimeError, match="nonsense"):
        Library().get("rows.nonsense")


def test_program_order(tmp_path: Path) -> None:
    # each op doubles what the last one made: any that ran too early would show
    library = Library()
    a, n = np.ones((1, 1000), np.float32), np.array([1], np.int64)
    for n_threads in (1, 2, 5):
        team = Team(library, n_threads)
        double = library.get("rows.add").bind(a=a, b=a, out=a, n_columns=1000, n_tokens=n)
        program = team.program([double] * 100, [True] * 100)
        for here, pause in itertools.product((True, False), (0, 0, 0.01)):  # threads look out for it, or sleep
            time.sleep(pause)
            a[:] = 1e-10
            team.run(program, here=here)
            np.testing.assert_allclose(a, 1e-10 * 2.0**100, rtol=1e-6)
        team.close()


def test_source_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = code._source_key()
    assert key == code._source_key()
    monkeypatch.setattr(code, "_versions", lambda: "other versions")
    assert key != code._source_key()

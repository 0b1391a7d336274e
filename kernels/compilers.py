"""The processes that compile kernels: started, followed, and their failures told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO

from .isa import TARGET_VARIABLE, Isa

_MOST = 8  # processes; each takes about 200 MB


class CompileError(RuntimeError):
    """A kernel could not be compiled; the message names it and says what its compiler said last."""


class Compilers:
    """Compiles kernels for an instruction set, and counts them over all of a process's life."""

    def __init__(self, isa: Isa) -> None:
        self._isa = isa
        self._done = self._total = 0

    def run(self, folder: Path, names: list[str], quiet: bool, *, scratch: bool = False) -> None:
        """Compile kernels into a folder, in as many processes as there are processors. Raises CompileError.

        scratch: the folder is only for this run, and goes with it, whatever ends that.
        """
        n = min(len(names), os.cpu_count() or 1, _MOST)
        # kernels of one type of weights share functions, which a process compiles once
        alike = sorted(names, key=lambda name: name.partition(":")[2])
        shares = [alike[len(alike) * i // n : len(alike) * (i + 1) // n] for i in range(n)]
        self._total += len(names)
        finished: SimpleQueue[str | CompileError] = SimpleQueue()
        workers = [_Worker(folder, share, self._isa, scratch, finished) for share in shares]
        try:
            self._tell(quiet, len(names))
            for _ in names:
                one = finished.get()
                if isinstance(one, CompileError):
                    raise one
                self._done += 1
                self._tell(quiet)
        finally:
            for worker in workers:
                worker.close()
            if not quiet and sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _tell(self, quiet: bool, n_new: int = 0) -> None:
        """A count on a terminal, elsewhere one line at the start (n_new)."""
        if quiet:
            return
        if sys.stderr.isatty():
            line = f"\rggrun: compiling kernels for {self._isa.name}, once: {self._done}/{self._total} "
            print(line, end="", file=sys.stderr, flush=True)
        elif n_new:
            print(f"ggrun: compiling {n_new} kernels for {self._isa.name}, once…", file=sys.stderr, flush=True)


class _Worker:
    """A process with its share of the kernels; a thread hears which are done, and which it died of."""

    def __init__(
        self, folder: Path, names: list[str], isa: Isa, scratch: bool, finished: SimpleQueue[str | CompileError]
    ) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [*command(), "scratch" if scratch else "keep", str(folder.absolute()), *names], env=_environment(isa),
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self._thread = Thread(target=self._follow, args=(list(names), finished), daemon=True)
        self._thread.start()

    def _follow(self, names: list[str], finished: SimpleQueue[str | CompileError]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if names and line.decode().strip() == names[0]:
                finished.put(names.pop(0))
        code = self._process.wait()
        if names:
            finished.put(CompileError(f"kernel {names[0]} could not be compiled: {_cause(code)}{self._last_words()}"))

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return "; it wrote:\n" + "\n".join(lines[-6:]) if lines else ""

    def close(self) -> None:
        """End the process, if it has not ended."""
        self._process.kill()
        self._thread.join()
        self._errors.close()
        for stream in self._process.stdin, self._process.stdout:
            if stream is not None:
                stream.close()


def command() -> list[str]:
    """How a compiler is started; what it is to do follows."""
    # -P: a file named numba.py where the user happens to stand is none of our business
    return [sys.executable, "-P", "-m", f"{__package__}.compiler"]


def _environment(isa: Isa) -> dict[str, str]:
    """The user's, without what would change Numba's ways, and so the code that comes out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    paths = [os.path.abspath(entry) for entry in sys.path if entry]
    return kept | {TARGET_VARIABLE: f"{isa.arch} {isa.name}", "PYTHONPATH": os.pathsep.join(paths)}


def _cause(code: int) -> str:
    if code >= 0:
        return f"its compiler ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"its compiler was ended by {name}{hint}"

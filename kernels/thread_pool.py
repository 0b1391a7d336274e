"""The thread pool: runs programs, arrays of kernels bound to their arguments, on all of its threads.

Within a program, Python does nothing. Between them, threads look out for the next one for a while, and then sleep.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue

import numpy as np

from .layout import IDLE, LINE, OP_BYTES
from .library import BoundKernel, Library, aligned
from .memory import address


class Program:
    """Calls in the form that a pool walks; `ThreadPool.program` makes it."""

    def __init__(
        self, calls: Sequence[BoundKernel], barrier: Sequence[bool], weights: Sequence[np.ndarray | None],
        n_threads: int,
    ) -> None:
        self.calls = calls  # kept alive: the table has the addresses of their records
        rows: list[tuple[int, ...]] = []
        ahead = 0, 0
        for call, m, w in reversed(list(zip(calls, barrier, weights, strict=True))):
            ahead = (address(w), w.nbytes) if w is not None else ahead
            rows.insert(0, (call.kernel.address, address(call.record), m, *ahead))
        self.table, self.n_ops = np.array(rows, np.int64).reshape(-1, OP_BYTES // 8), np.array([len(rows)], np.int64)
        self.counters = aligned(2 * len(rows) * n_threads * LINE)
        self.turn = np.zeros(1, np.int64)
        self.walk: BoundKernel | None = None


class ThreadPool:
    """A fixed number of threads that run programs together."""

    KERNELS = ("program.run", "program.post", "program.lead", "program.follow")

    def __init__(self, library: Library, n_threads: int) -> None:
        self.n_threads = n_threads
        library.load(self.KERNELS)
        self._walk = library.get("program.run")
        self._flags, self._stop, self._mailbox, finished = (aligned(n * LINE) for n in (n_threads, 1, 1, n_threads))
        self._stop, self._mailbox = self._stop.view(np.int64), self._mailbox.view(np.int64)
        self._flags.view(np.int64).fill(IDLE)
        self._finished = finished.view(np.int64)[:: LINE // 8]
        self._moment, self._record = np.ones(1, np.int64), np.zeros(1, np.int64)
        self._ways = _ways_to_wait()
        self._post = library.get("program.post").bind(mailbox=self._mailbox, moment=self._moment, record=self._record)
        places = {"mailbox": self._mailbox, "finished": finished, "walk": self._walk.address, "ways": self._ways}
        self._lead, self._follow = (library.get(f"program.{name}").bind(**places) for name in ("lead", "follow"))
        self._asleep = [False] * n_threads
        self._inboxes: list[SimpleQueue[SimpleQueue[None] | None]] = [SimpleQueue() for _ in range(n_threads)]
        self._done: SimpleQueue[None] = SimpleQueue()
        for i in range(n_threads):
            work = self._follower if i else self._leader
            threading.Thread(target=work, args=(i,), name=f"ggrun-{i}", daemon=True).start()

    def program(
        self, calls: Sequence[BoundKernel], barrier: Sequence[bool], weights: Sequence[np.ndarray | None] | None = None
    ) -> Program:
        """A program of these calls in this order; `barrier[i]`: call i needs what earlier ones made, so wait for them.

        weights[i]: what call i reads from its first byte to its last, if it reads much.
        """
        program = Program(calls, barrier, weights or [None] * len(calls), self.n_threads)
        program.walk = self._walk.bind(
            ops=program.table, n_ops=program.n_ops, counters=program.counters, turn=program.turn,
            flags=self._flags, stop=self._stop, moment=self._moment, ways=self._ways,
        )  # fmt: skip
        return program

    def run(self, program: Program, *, here: bool) -> None:
        """Run a program on all threads and wait for its end.

        With `here`, the calling thread is one of them, which saves a wake-up: for short programs. Without, the caller
        only waits, so that a KeyboardInterrupt reaches it at once and stops the pool between two kernels.
        """
        assert program.walk is not None
        self._record[0] = address(program.walk.record)
        try:
            self._run(self._post, 0)
            self._wake()
            if here:
                self._run(self._lead, 0)
            else:
                self._inboxes[0].put(self._done)
                self._done.get()
        except BaseException:
            self._stop[0] = 1
            while not self._settled():
                pass
            self._stop[0] = 0
            program.counters.fill(0)
            raise
        finally:
            self._moment[0] += program.n_ops[0] + 1
            program.turn[0] ^= 1

    def close(self) -> None:
        """End the threads."""
        for inbox in self._inboxes:
            inbox.put(None)

    def _run(self, call: BoundKernel, thread: int) -> None:
        call.kernel.run(address(call.record), thread, self.n_threads, 0)

    def _wake(self) -> None:
        for i, asleep in enumerate(self._asleep):
            if asleep:
                self._asleep[i] = False
                self._inboxes[i].put(self._done)

    def _settled(self) -> bool:
        """Wait until every thread has done all it was given, wherever an interrupt came; False if one comes again."""
        try:
            answers: SimpleQueue[None] = SimpleQueue()
            self._inboxes[0].put(answers)
            answers.get()
            while (self._finished[1:] != self._mailbox[0]).any():
                self._wake()
                time.sleep(1e-4)
            while not self._done.empty():
                self._done.get()
        except KeyboardInterrupt:
            return False
        return True

    def _leader(self, thread: int) -> None:
        """Thread 0, where the caller of `run` does not do its work; says in the queue that it gets when it is done."""
        while (done := self._inboxes[thread].get()) is not None:
            if done is self._done:
                self._run(self._lead, thread)
            done.put(None)

    def _follower(self, thread: int) -> None:
        while True:
            self._run(self._follow, thread)
            # under Python's lock, as `run` asks after it has posted: whoever comes second sees what the first has done
            self._asleep[thread] = True
            if self._finished[thread] == self._mailbox[0] and self._inboxes[thread].get() is None:
                return
            self._asleep[thread] = False


def _ways_to_wait() -> np.ndarray:
    """For kernels: addresses of the system's functions that yield the processor, and that sleep, and for how long."""
    if sys.platform == "win32":
        kernel32 = ctypes.WinDLL("kernel32")
        functions, a_while = (kernel32.SwitchToThread, kernel32.Sleep), 1  # ms
    else:
        libc = ctypes.CDLL(None)
        functions, a_while = (libc.sched_yield, libc.usleep), 50  # µs
    return np.array([*(ctypes.cast(function, ctypes.c_void_p).value for function in functions), a_while], np.int64)

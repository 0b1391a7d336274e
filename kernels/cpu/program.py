"""The program: a step of a model as an array of kernels, walked by every thread of the team.

After an operation whose results the next one needs, the threads meet at a barrier: a counter that only grows.
They wait for each other by spinning, because the wait is usually shorter than a system call, and offer the
processor to others after a while, because the thread waited for may need it.
"""

from __future__ import annotations

from typing import Any

from ..code import Ref
from ..layout import COUNTER_STRIDE, OP_BYTES
from ..simd import get_i64, inline, invoke, invoke0, pause, take, watch

_SPINS = 20000


@inline
def _meet(barrier, n_threads, stop, give_way):  # type: ignore[no-untyped-def]
    """Wait until all threads have come this far, or `stop` is set."""
    target = (take(barrier) // n_threads + 1) * n_threads
    spins = 0
    while watch(barrier) < target and watch(stop) == 0:
        spins += 1
        if spins % 64 == 0:  # a virtual machine that sees many pauses in a row puts the processor to sleep
            pause()
            if spins > _SPINS:
                invoke0(give_way)


def run() -> Any:
    """One thread's walk. ops: records of (kernel, arguments, whether to meet first); counters: one an op, zeroed.

    stop: address of an int that ends the walk early when set; give_way: C function that yields the processor.
    """

    def body(
        thread: int, n_threads: int, counter: int,
        ops: int, counters: int, barrier: int, stop: int, give_way: int, n_ops: Ref,
    ) -> None:  # fmt: skip
        for i in range(n_ops):
            op = ops + OP_BYTES * i
            if n_threads > 1 and get_i64(op + 16):
                _meet(barrier, n_threads, stop, give_way)
            if watch(stop):
                break
            invoke(get_i64(op), get_i64(op + 8), thread, n_threads, counters + COUNTER_STRIDE * i)

    return body

"""The program: a step of a model as an array of kernels, walked by every thread of the team.

Before an operation that needs what others made, the threads meet: each announces how far it has come, and waits
until all have. They wait by spinning, because that is usually shorter than a system call, and offer the processor
to others after a while, because the thread waited for may need it.
"""

from __future__ import annotations

from typing import Any

from ..code import Ref
from ..layout import LINE, OP_BYTES
from ..simd import announce, get_i64, inline, invoke, invoke0, pause, watch

_SPINS = 20000


@inline
def _meet(flags, thread, n_threads, moment, stop, give_way):
    """Wait until all threads have announced this moment, or `stop` is set."""
    announce(flags + LINE * thread, moment)
    spins = 0
    for other in range(n_threads):
        while watch(flags + LINE * other) < moment and watch(stop) == 0:
            spins += 1
            if spins % 64 == 0:  # a virtual machine that sees many pauses in a row puts the processor to sleep
                pause()
                if spins > _SPINS:
                    invoke0(give_way)


def run() -> Any:
    """One thread's walk. ops: records of (kernel, arguments, whether to meet first).

    counters: two sets of a line for each op and thread, used in turn: while one is in use, each thread clears its
    lines of the other. flags: a line for each thread; moment: an int that grows by at least n_ops + 1 from run to run;
    stop: address of an int that ends the walk early when set; give_way: a C function that yields the processor.
    """

    def body(
        thread: int, n_threads: int, counter: int,
        ops: int, counters: int, flags: int, stop: int, give_way: int, n_ops: Ref, moment: Ref, turn: Ref,
    ) -> None:  # fmt: skip
        size = n_ops * n_threads * LINE
        used, cleared = counters + turn * size, counters + (1 - turn) * size
        for i in range(n_ops):
            op, at = ops + OP_BYTES * i, i * n_threads * LINE
            announce(cleared + at + LINE * thread, 0)
            if n_threads > 1 and get_i64(op + 16):
                _meet(flags, thread, n_threads, moment + i, stop, give_way)
            if watch(stop):
                break
            invoke(get_i64(op), get_i64(op + 8), thread, n_threads, used + at)

    return body

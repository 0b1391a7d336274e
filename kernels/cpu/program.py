"""The program: a step of a model as an array of kernels, walked by every thread of the pool.

Before an operation that needs what others made, a thread waits until no other is still at work on one before it. Who
is at work on none need not be waited for: all work was taken (work_stealing.py), so that it finds none where it comes
late, as when the system has given its processor to another process. Threads wait by spinning, because that is usually
shorter than a system call; after a while they offer the processor to others, because the thread waited for may need
it, and then sleep. Who waits asks meanwhile for the weights that it will read next, so that memory does not idle while
one thread does what cannot be shared.

Programs are posted for all threads at once. Those that have finished one look out for the next for a while before they
sleep, because to wake many takes longer than a short program.
"""

from __future__ import annotations

from typing import Any

from ..layout import IDLE, LINE, OP_BYTES
from ..library import Ref
from ..simd import get_i64, inline, invoke, invoke0, invoke1, load_acquire, pause, prefetch_later, store_release

_SPINS = 5000  # before the processor is offered
_LOOKS = 60000  # before sleeping: about 0.6 ms, somewhat more than lies between two tokens
_MOST_AHEAD = 1 << 18  # bytes of weights that a thread asks for while it waits: they must fit its second cache


@inline
def _spin(spins, ways):
    """After so many looks in vain. ways: i64[3]: C functions that yield the processor, and that sleep, and how long."""
    if spins % 64 == 0:  # a virtual machine that sees many pauses in a row puts the processor to sleep
        pause()
        if spins >= _LOOKS:
            invoke1(get_i64(ways + 8), get_i64(ways + 16))
        elif spins > _SPINS:
            invoke0(get_i64(ways))


@inline
def _meet(flags, n_threads, moment, stop, ways, ahead, end):
    """Wait until no thread works on what comes before this moment, or `stop` is set.

    Meanwhile ask for memory from `ahead` to `end`.
    """
    spins = 0
    for other in range(n_threads):
        while load_acquire(flags + LINE * other) < moment and load_acquire(stop) == 0:
            spins += 1
            if ahead < end:
                prefetch_later(ahead)
                ahead += LINE
            _spin(spins, ways)
    return ahead


def run() -> Any:
    """One thread's walk. ops: records of (kernel, arguments, whether after a barrier, the weights of this operation or
    the next that has any, their size).

    counters: two sets of a line for each op and thread, used in turn: while one is in use, each thread clears its
    lines of the other. flags: a line for each thread, with the moment of the operation that it works on, or IDLE;
    moment: an int that grows by at least n_ops + 1 from run to run;
    stop: address of an int that ends the walk early when set; ways: see _spin.
    """

    def body(
        thread: int, n_threads: int, counter: int,
        ops: int, counters: int, flags: int, stop: int, ways: int, n_ops: Ref, moment: Ref, turn: Ref,
    ) -> None:  # fmt: skip
        size = n_ops * n_threads * LINE
        used, cleared = counters + turn * size, counters + (1 - turn) * size
        weights, ahead, end = 0, 0, 0
        for i in range(n_ops):
            op, at = ops + OP_BYTES * i, i * n_threads * LINE
            store_release(cleared + at + LINE * thread, 0)
            if get_i64(op + 24) != weights:
                weights, own = get_i64(op + 24), get_i64(op + 32) // n_threads
                ahead = weights + own * thread
                end = ahead + min(own, _MOST_AHEAD)
            if n_threads > 1 and get_i64(op + 16):
                ahead = _meet(flags, n_threads, moment + i, stop, ways, ahead, end)
            if load_acquire(stop):
                break
            store_release(flags + LINE * thread, moment + i)
            invoke(get_i64(op), get_i64(op + 8), thread, n_threads, used + at)
            store_release(flags + LINE * thread, IDLE)

    return body


def post() -> Any:
    """Post a program: mailbox: two ints, the moment that its walk begins with, and the address of the walk's record."""

    def body(thread: int, n_threads: int, counter: int, mailbox: int, moment: Ref, record: Ref) -> None:
        store_release(mailbox + 8, record)
        store_release(mailbox, moment)

    return body


def lead() -> Any:
    """Thread 0's part of the program that is posted: its walk, and to wait until all others are through.

    finished: a line for each thread, with the moment of the program that it has finished last; walk: `run`.
    """

    def body(
        thread: int, n_threads: int, counter: int, mailbox: int, finished: int, walk: int, ways: int,
    ) -> None:  # fmt: skip
        moment, spins = load_acquire(mailbox), 0
        invoke(walk, load_acquire(mailbox + 8), 0, n_threads, 0)
        for other in range(1, n_threads):
            while load_acquire(finished + LINE * other) != moment:
                spins += 1
                _spin(spins, ways)

    return body


def follow() -> Any:
    """What other threads do: walk through each program that is posted; return when there was none for a while."""

    def body(
        thread: int, n_threads: int, counter: int, mailbox: int, finished: int, walk: int, ways: int,
    ) -> None:  # fmt: skip
        mine, looks = finished + LINE * thread, 0
        last = load_acquire(mine)
        while looks < _LOOKS:
            moment = load_acquire(mailbox)
            if moment != last:
                invoke(walk, load_acquire(mailbox + 8), thread, n_threads, 0)
                store_release(mine, moment)
                last, looks = moment, 0
            else:
                looks += 1
                _spin(looks, ways)

    return body

"""How threads share the items of an operation.

Each thread owns an equal, contiguous share and takes items off its own counter, a cache line of its own; who has
finished helps the others. So threads hardly ever touch the same line, memory is read in long runs, and fast and
slow cores still finish together. Few items, at most one for each thread, go off one counter to whoever comes.

Either way, a thread that gets none knows that each was taken, which program.py builds on. So how many items there are
must follow from an operation's arguments, not from what another has written: a thread may come late.
"""

from __future__ import annotations

from ..layout import LINE
from ..simd import fetch_add, inline, load_acquire


@inline
def claim(counters, thread, n_threads, n_items):
    """The next item for this thread to do; n_items or more when none is left. counters: a line for each thread."""
    n_owners = n_threads if n_items > n_threads else 1
    for i in range(n_owners):
        owner = (thread + i) % n_owners
        first = (n_items * owner + n_owners - 1) // n_owners
        end = (n_items * (owner + 1) + n_owners - 1) // n_owners
        counter = counters + LINE * owner
        if first + load_acquire(counter) < end:
            item = first + fetch_add(counter)
            if item < end:
                return item
    return n_items

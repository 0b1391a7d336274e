"""How far a long run has come."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(n_all: int, n_done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal; call what is given with the number that are done."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=n_all, completed=n_done)
        yield lambda n: bar.update(task, completed=n)

"""The pages of one sequence in layers that see only a window of it: those that a next token may see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backends.pages import WindowMemory
from ..backends.states import NOTHING
from ..kernels.layout import PAGE
from .cache import Node, PageAllocator


class Windows:
    """Pages number `first` to `end` - 1 of a sequence. table: i32, where they are, by their number."""

    def __init__(self, pages: PageAllocator) -> None:
        self.pages = pages
        self._size = max(memory.window for memory in pages.memories if isinstance(memory, WindowMemory))
        self.first = self.end = 0
        self.table = np.zeros(16, np.int32)

    @property
    def held(self) -> list[int]:
        """Where they are, the last one first."""
        return self.table[self.first : self.end][::-1].tolist()

    def first_seen(self, n: int) -> int:
        """The first page that the token after n others sees."""
        return max(0, n - self._size + 1) // PAGE

    def resumable(self, n: int, nodes: Sequence[Node]) -> int:
        """After how many tokens, n at most, one can go on: what is seen there is held, or in the tree."""
        while n:
            pages = range(self.first_seen(n), -(-n // PAGE))
            missing = next((i for i in pages if not self._holds(i) and not _is_there(nodes, i)), None)
            if missing is None:
                return n
            n = missing * PAGE
        return 0

    def begin(self, n: int, nodes: Sequence[Node]) -> None:
        """Hold what the token after n others sees of the full pages before it."""
        self.first, self.end = 0, 0
        first = min(self.first_seen(n), len(nodes))
        for node in nodes[first:]:
            self.pages.hold(node.window)
        while len(nodes) >= len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        self.table[first : len(nodes)] = [node.window for node in nodes[first:]]
        self.first, self.end = first, len(nodes)

    def n_missing(self, end: int) -> int:
        """How many pages must be taken for tokens up to `end`."""
        return max(0, -(-end // PAGE) - self.end)

    def extend(self, end: int) -> None:
        """Take the pages for tokens up to `end`."""
        for _ in range(self.n_missing(end)):
            self.append(self.pages.take())

    def append(self, page: int) -> None:
        if self.end == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        self.table[self.end] = page
        self.end += 1

    def own(self, i: int) -> None:
        """Have a copy of page i to oneself."""
        shared, own = int(self.table[i]), self.pages.take()
        self.pages.copy(own, shared)
        self.table[i] = own
        self.pages.drop(shared)

    def share(self, i: int, node: Node) -> None:
        """Let others use page i, or use theirs."""
        if not self._holds(i):
            return
        page = int(self.table[i])
        if node.window == NOTHING:
            node.keep_window(self.pages, page)
        elif node.window != page:
            self.pages.hold(node.window)
            self.table[i] = node.window
            self.pages.drop(page)

    def give_back(self, n: int) -> None:
        """Hold no longer what the tokens after n see no more."""
        first = min(self.first_seen(n), self.end)
        pages = self.table[self.first : first].tolist()
        self.first = max(self.first, first)
        for page in pages:
            self.pages.drop(page)

    def rewind(self, n: int, nodes: Sequence[Node]) -> None:
        """Hold what the token after n others sees, and nothing that comes later; `resumable` has said that one can."""
        end = -(-n // PAGE)
        first = self.first_seen(n)
        dropped = self.table[max(self.first, end) : self.end][::-1].tolist()
        for i in range(first, min(self.first, end)):
            self.pages.hold(nodes[i].window)
            while i >= len(self.table):
                self.table = np.concatenate([self.table, np.zeros_like(self.table)])
            self.table[i] = nodes[i].window
        self.first, self.end = min(self.first, first), end
        if not n:
            self.first = 0
        for page in dropped:
            self.pages.drop(page)

    def _holds(self, i: int) -> bool:
        return self.first <= i < self.end


def _is_there(nodes: Sequence[Node], i: int) -> bool:
    return i < len(nodes) and nodes[i].window != NOTHING

"""The KV cache: numbers of pages that sequences hold, and a tree of what filled pages contain, to be held again.

A page whose last holder leaves keeps what it contains for as long as no other use needs its memory.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ..backends.pages import SLAB, PageMemory
from ..kernels.layout import PAGE


class NoPages(Exception):
    """The memory for keys and values does not suffice. Nothing has changed."""


class CacheSpec(NamedTuple):
    """Layers that keep the same kind of thing of a text.

    full: keys and values of all tokens, in pages. window: of those that a window sees. latent: a compressed row of all
    tokens, in pages. state: one state, whatever the text's length.
    """

    kind: Literal["full", "window", "latent", "state"]
    layers: tuple[int, ...]

    def rewound(self, n_computed: int, n: int) -> int:
        """How many of the first n tokens of n_computed can be gone on from."""
        if n == n_computed or self.kind in ("full", "latent"):
            return n
        return 0  # a window has lost what it saw then, and a state cannot be taken back


def specs(memories: Iterable[PageMemory]) -> list[CacheSpec]:
    """What the stages' layers keep: so far the keys and values of all tokens."""
    return [CacheSpec("full", tuple(layer for memory in memories for layer in memory.layout.k_offset))]


class PageAllocator:
    """Numbers of pages, the same for all stages, and how many sequences hold each.

    A page that was given to `keep` stays as it is when nobody holds it, the least recently held giving way first.
    orphans: pages of sequences that were lost, at whatever moment; they are dropped when it suits.
    """

    def __init__(self, memories: Sequence[PageMemory], capacity: int) -> None:
        """capacity: how many pages there may be."""
        self.memories, self.capacity = memories, capacity
        self._holders: list[int] = []  # by page
        self._free: list[int] = []
        self._idle: OrderedDict[int, None] = OrderedDict()  # kept and held by nobody, least recently held first
        self._kept: dict[int, Callable[[], None]] = {}
        self.orphans: deque[list[int]] = deque()

    @property
    def n_available(self) -> int:
        """How many pages can be taken now."""
        while self.orphans:
            for page in self.orphans.popleft():
                self.drop(page)
        return self.capacity - self.n_held

    @property
    def n_held(self) -> int:
        """How many pages somebody holds."""
        return len(self._holders) - len(self._free) - len(self._idle)

    @property
    def n_kept(self) -> int:
        """How many pages nobody holds that are kept for what they contain."""
        return len(self._idle)

    @property
    def n_tokens(self) -> int:
        """For how many tokens there is memory in all."""
        return self.capacity * PAGE

    def require(self, n: int) -> None:
        """Raises NoPages unless n pages can be taken now. Then `take` has them."""
        if n > self.n_available:
            raise NoPages(
                f"the cache of keys and values is full: it has room for {self.n_tokens} tokens; --kv-memory "
                "gives it more, -ctk q8_0 -ctv q8_0 makes more of it"
            )
        while len(self._free) < n and len(self._holders) < self.capacity:
            n_pages = min(self.capacity, len(self._holders) + SLAB)
            try:
                for memory in self.memories:
                    memory.extend_to(n_pages)
            except MemoryError:  # less is free than the device said
                self.capacity = len(self._holders)
                return self.require(n)
            self._free.extend(reversed(range(len(self._holders), n_pages)))
            self._holders.extend([0] * (n_pages - len(self._holders)))
        while len(self._free) < n:
            page, _ = self._idle.popitem(last=False)
            self._kept.pop(page)()
            self._free.append(page)

    def take(self) -> int:
        """A page for oneself, of any content. Raises NoPages."""
        if not self._free:
            self.require(1)
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        """Hold a page that others hold, or that is kept."""
        self._holders[page] += 1
        self._idle.pop(page, None)

    def drop(self, page: int) -> None:
        """No longer hold a page."""
        self._holders[page] -= 1
        if self._holders[page]:
            return
        if page in self._kept:
            self._idle[page] = None
        else:
            self._free.append(page)

    def is_idle(self, page: int) -> bool:
        """Whether nobody holds a page."""
        return page in self._idle

    def keep(self, page: int, forget: Callable[[], None]) -> None:
        """Keep what a page contains once nobody holds it; `forget` is called when it has to give way."""
        self._kept[page] = forget

    def unkeep(self, page: int) -> None:
        """What a page contains is worth nothing any more."""
        del self._kept[page]

    def copy(self, to: int, source: int) -> None:
        """Copy a page, in each stage on its own device."""
        for memory in self.memories:
            memory.copy(to, source)


class Node:
    """A page in the tree of what pages contain: the tokens in it, after those of the pages above it.

    Only leaves have fewer than PAGE tokens: the last pages of texts.
    """

    def __init__(self, parent: Node | None, page: int, key: bytes) -> None:
        self.parent, self.page, self.key = parent, page, key
        self._children: dict[bytes, Node] = {}
        self._order: list[bytes] = []  # sorted, so that neighbours have the longest beginnings in common

    @property
    def n_tokens(self) -> int:
        return len(self.key) // _KEY_BYTES

    def child(self, key: bytes) -> Node | None:
        """The page below with just these tokens."""
        return self._children.get(key)

    def closest(self, key: bytes) -> tuple[Node | None, int]:
        """The page below that has the longest beginning in common with these tokens, and its length in tokens."""
        at = bisect_left(self._order, key)
        found = [(_n_common(key, other), other) for other in self._order[max(0, at - 1) : at + 1]]
        n, best = max(found, default=(0, b""))
        return (self._children[best], n) if n else (None, 0)

    def add(self, page: int, key: bytes) -> Node:
        node = self._children[key] = Node(self, page, key)
        insort(self._order, key)
        return node

    def remove(self) -> None:
        """Take the node out of the tree."""
        assert self.parent and not self._children
        del self.parent._children[self.key]
        del self.parent._order[bisect_left(self.parent._order, self.key)]


_KEY_BYTES = 4


def key_of(tokens: np.ndarray) -> bytes:
    """Tokens as bytes that sort as they do."""
    return tokens.astype(">u4").tobytes()


def _n_common(a: bytes, b: bytes) -> int:
    """How many tokens two keys have in common at their beginning."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n // _KEY_BYTES
    differs = np.frombuffer(a, np.uint8, n) != np.frombuffer(b, np.uint8, n)
    return int(differs.argmax()) // _KEY_BYTES


class PrefixCache:
    """Trees of pages by what they contain. A tree's root stands for what else keys and values depend on."""

    def __init__(self, pages: PageAllocator) -> None:
        self.pages = pages
        self._roots: dict[Hashable, Node] = {}

    def root(self, name: Hashable) -> Node:
        """The tree of this name: sequences of the same tree use each other's pages."""
        return self._roots.setdefault(name, Node(None, -1, b""))

    def find(self, node: Node, tokens: np.ndarray) -> tuple[list[Node], Node | None, int]:
        """What is there of a text: full pages, a page in whose beginning it goes on, and how far, in tokens."""
        found: list[Node] = []
        for start in range(0, len(tokens), PAGE):
            key = key_of(tokens[start : start + PAGE])
            child = node.child(key) if len(key) == PAGE * _KEY_BYTES else None
            if not child:
                return found, *node.closest(key)
            found.append(node := child)
        return found, None, 0

    def add(self, parent: Node, page: int, tokens: np.ndarray) -> Node:
        """Note what a page contains; gives the node that has it, perhaps with another page."""
        key = key_of(tokens)
        if node := parent.child(key):
            return node
        node = parent.add(page, key)
        self.pages.keep(page, node.remove)
        return node

    def remove(self, node: Node) -> None:
        """Forget what a page contains."""
        node.remove()
        self.pages.unkeep(node.page)


def capacity(memories: Sequence[PageMemory], budget: int, taken: int) -> int:
    """How many pages there may be: as many as fit the budget in bytes, 0 for what each device has free.

    taken: bytes of RAM that will be used and are free yet, such as mapped weights.
    """
    if not memories:
        return 1 << 30  # nothing is kept
    if budget:
        found = budget // sum(memory.layout.n_bytes for memory in memories)
        if not found:
            raise ValueError("the memory for keys and values is smaller than a page of 64 tokens")
        return found
    most = 1 << 30
    for device in {memory.heap.device for memory in memories}:
        own = [memory for memory in memories if memory.heap.device == device]
        room = own[0].heap.free() - (taken if device == "RAM" else 0)
        most = min(most, room // sum(memory.layout.n_bytes for memory in own))
    return max(SLAB, most)

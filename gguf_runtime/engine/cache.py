"""The cache: numbers of pages and states that sequences hold, and a tree of what they contain, to be held again.

What the last holder leaves is kept for as long as no other use needs its memory.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from ..backends.pages import SLAB, RecordMemory
from ..backends.states import NOTHING, StateMark
from ..kernels.layout import PAGE

_FULL = (
    "the cache of keys and values is full: it has room for {} tokens; --kv-memory gives it more, -ctk q8_0 -ctv q8_0 "
    "makes more of it"
)
_NO_STATES = "the memory for states is full: it has room for {}; --kv-memory gives it more"


class NoPages(Exception):
    """The memory for keys and values, or for states, does not suffice. Nothing has changed."""


class PageAllocator:
    """Numbers of pages, or of other records, the same for all stages, and how many sequences hold each.

    A page that was given to `keep` stays as it is when nobody holds it, the least recently held giving way first.
    orphans: pages of sequences that were lost, at whatever moment; they are dropped when it suits.
    """

    def __init__(self, memories: Sequence[RecordMemory], capacity: int, full: str = _FULL, unit: int = PAGE) -> None:
        """capacity: how many pages there may be. full: what NoPages says where there are no more, of `unit` each."""
        self.memories, self.capacity = memories, capacity
        self._full, self._unit = full, unit
        self._slab = min((memory.slab for memory in memories), default=SLAB)
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
        return self.capacity * self._unit

    def require(self, n: int) -> None:
        """Raises NoPages unless n pages can be taken now. Then `take` has them."""
        if n > self.n_available:
            raise NoPages(self._full.format(self.capacity * self._unit))
        while len(self._free) < n and len(self._holders) < self.capacity:
            n_pages = min(self.capacity, len(self._holders) + self._slab)
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

    def is_sole(self, page: int) -> bool:
        """Whether a page can be taken once one holder leaves."""
        return self._holders[page] == 1

    def is_kept(self, page: int) -> bool:
        """Whether what a page contains is kept."""
        return page in self._kept

    def keep(self, page: int, forget: Callable[[], None]) -> None:
        """Keep what a page contains once nobody holds it; `forget` is called when it has to give way."""
        self._kept[page] = forget

    def unkeep(self, page: int) -> None:
        """What a page contains is worth nothing any more."""
        del self._kept[page]
        if page in self._idle:
            del self._idle[page]
            self._free.append(page)

    def copy(self, to: int, source: int) -> None:
        """Copy a page, in each stage on its own device."""
        for memory in self.memories:
            memory.copy(to, source)


class Node:
    """A page in the tree of what pages contain: the tokens in it, after those of the pages above it.

    Only leaves have fewer than PAGE tokens: the last pages of texts. states: records with the state after this page
    and so many tokens more, fewer than PAGE. window: the page of layers that see only a window, or NOTHING.
    """

    def __init__(self, parent: Node | None, page: int, key: bytes) -> None:
        self.parent, self.page, self.key = parent, page, key
        self.states: dict[bytes, int] = {}
        self.window = NOTHING
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

    def keep_window(self, pages: PageAllocator, page: int) -> None:
        """Have the page of layers that see only a window."""

        def forget() -> None:
            self.window = NOTHING

        self.window = page
        pages.keep(page, forget)

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
    """Trees of pages by what they contain. A tree's root stands for what else keys and values depend on.

    states: of models that keep one; it is found again where a checkpoint was left, not at any place. windows: pages of
    layers that see only a window.
    """

    def __init__(
        self, pages: PageAllocator, states: PageAllocator | None = None, windows: PageAllocator | None = None
    ) -> None:
        self.pages, self.states, self.windows = pages, states, windows
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

    def find_state(self, root: Node, nodes: Sequence[Node], tokens: np.ndarray) -> StateMark:
        """The last state that is there of a text whose full pages are these nodes."""
        for i in range(min(len(nodes), len(tokens) // PAGE), -1, -1):
            states = nodes[i - 1].states if i else root.states
            key = key_of(tokens[i * PAGE : (i + 1) * PAGE - 1])
            for n in range(len(key) // _KEY_BYTES, -1, -1) if states else ():
                record = states.get(key[: n * _KEY_BYTES])
                if record is not None:
                    return StateMark(i * PAGE + n, record)
        return StateMark(0, NOTHING)

    def add(self, parent: Node, page: int, tokens: np.ndarray) -> Node:
        """Note what a page contains; gives the node that has it, perhaps with another page."""
        key = key_of(tokens)
        if node := parent.child(key):
            return node
        node = parent.add(page, key)
        self.pages.keep(page, lambda: self._forget(node))
        return node

    def add_state(self, node: Node, tokens: np.ndarray, record: int) -> None:
        """Note that a record has the state after a page and these tokens, fewer than PAGE."""
        assert self.states
        key = key_of(tokens)
        if key not in node.states and not self.states.is_kept(record):
            node.states[key] = record
            self.states.keep(record, lambda: node.states.__delitem__(key))

    def remove(self, node: Node) -> None:
        """Forget what a page contains."""
        self._forget(node)
        self.pages.unkeep(node.page)

    def _forget(self, node: Node) -> None:
        node.remove()
        while self.states and node.states:
            _, record = node.states.popitem()
            self.states.unkeep(record)
        if self.windows and node.window != NOTHING:
            self.windows.unkeep(node.window)
            node.window = NOTHING


_UNLIMITED = 1 << 16  # pages that keep nothing but their place in the tree
_LEAST_STATES = 2  # what a step begins from, and what it leaves

Memories = Sequence[RecordMemory]


def allocators(
    pages: Memories, states: Memories, windows: Memories, budget: int, taken: int
) -> tuple[PageAllocator, PageAllocator | None, PageAllocator | None]:
    """Of pages, of states and of pages of windows, of which most models have only the first; see `capacities`."""
    n_pages, n_states, n_windows = capacities(pages, states, windows, budget, taken)
    return (
        PageAllocator(pages, n_pages),
        PageAllocator(states, n_states, _NO_STATES, 1) if states else None,
        PageAllocator(windows, n_windows) if windows else None,
    )


def capacities(pages: Memories, states: Memories, windows: Memories, budget: int, taken: int) -> list[int]:
    """How many pages, states and pages of windows there may be: as many as fit the budget in bytes, 0 for what each
    device has free. Raises ValueError where it is too small.

    There are no more of the others than pages, and each kind has at most its equal share of the memory; pages have the
    rest. taken: bytes of RAM that will be used and are free yet, such as mapped weights.
    """
    kinds, least = (pages, states, windows), (SLAB, _LEAST_STATES, SLAB)
    if budget:
        found = _divided(budget, kinds)
        if not all(n >= (_LEAST_STATES if kind is states else 1) for n, kind in zip(found, kinds, strict=True)):
            needed = "a page of 64 tokens" + (f" and {_LEAST_STATES} states" if states else "")
            raise ValueError(f"the memory for keys and values is smaller than {needed}")
        return found
    rooms = {memory.heap.device: memory.heap.free() for kind in kinds for memory in kind}
    if not rooms:
        return [_UNLIMITED] * 3
    by_device = [
        _divided(room - (taken if device == "RAM" else 0), [_on(device, kind) for kind in kinds])
        for device, room in rooms.items()
    ]
    return list(map(max, least, map(min, zip(*by_device, strict=True))))


def _on(device: str, memories: Memories) -> Memories:
    return [memory for memory in memories if memory.heap.device == device]


def _divided(room: int, kinds: Sequence[Memories]) -> list[int]:
    """How many records of each kind fit a room, pages being the first."""
    page, *others = (sum(memory.n_bytes for memory in kind) for kind in kinds)
    n_kinds, together = sum(size > 0 for size in (page, *others)), page + sum(others)
    found, left = [], room
    for size in others:
        n = room // (n_kinds * size) if size else _UNLIMITED
        found.append(min(n, room // together) if page else n)
        left -= found[-1] * size
    return [left // page if page else _UNLIMITED, *found]

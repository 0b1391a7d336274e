"""A text, and the pages and states of the cache in which it is computed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..backends import Chunk
from ..backends.states import NOTHING, StateMark
from ..kernels.layout import PAGE
from ..text import Text
from .cache import Node, NoPages, PrefixCache
from .states import States
from .windows import Windows

_CHECKPOINTS = 8  # a text may leave so small a part of all states


class Sequence:
    """One text, the pages that hold what is computed of it, and which of these other sequences may use.

    text: its tokens. n_computed: tokens whose keys and values the pages hold, which may be more than the text has:
    guesses, until they are accepted. source: another text, i32, that an encoder reads first; n_source: its tokens, once
    the pages keep what it made of them, beside this one's. pages: i32, numbers of pages in order, more than needed.
    """

    def __init__(self, cache: PrefixCache, tokens: Iterable[int], root: Node | None) -> None:
        """root: of the tree whose pages it uses and to which it leaves its own; None for neither."""
        self._n_pages = 0
        self.text = Text(tokens)
        self.n_computed = 0
        self.source, self.n_source = np.zeros(0, np.int32), 0
        self.pages = np.zeros(16, np.int32)
        self._cache, self._root = cache, root
        self._states = States(cache.states) if cache.states else None
        self._windows = Windows(cache.windows) if cache.windows else None
        self._departure = 0  # tokens up to which it is as another text
        self._nodes: list[Node] = []  # of its first pages, as far as they are in the tree
        self._tail: Node | None = None  # of the page after these, which it goes on filling
        self._forgotten = range(0)

    @property
    def context(self) -> np.ndarray:
        """i32: the tokens of the text that the model is to see: all that were not forgotten."""
        ids, gap = self.text.ids, self._forgotten
        return np.concatenate([ids[: gap.start], ids[gap.stop :]]) if gap else ids

    @property
    def n_context(self) -> int:
        return len(self.text) - len(self._forgotten)

    @property
    def n_left(self) -> int:
        """Tokens of the context that are not computed."""
        return self.n_context - self.n_computed

    @property
    def n_pages(self) -> int:
        """Pages that it holds."""
        return self._n_pages

    @property
    def marks(self) -> list[StateMark]:
        """What of the state a step begins from, and what it leaves."""
        return self._states.marks if self._states else []

    @property
    def window_pages(self) -> np.ndarray:
        """i32: as `pages`, of layers that see only a window; what none sees any more is not there."""
        return self._windows.table if self._windows else self.pages[:0]

    @property
    def windows_held(self) -> list[int]:
        """Numbers of these pages, the last one first."""
        return self._windows.held if self._windows else []

    def chunk(self, n_tokens: int, n_logits: int, guess: list[int]) -> Chunk:
        """The next tokens to compute, and a guess of what follows; logits are wanted for the last n_logits."""
        end = self.n_computed + n_tokens
        tokens = self.context[self.n_computed : end]
        if guess:
            tokens = np.append(tokens, np.array(guess, np.int32))
        return Chunk(self, tokens, n_logits + len(guess), self.n_computed)

    def outlook(self) -> tuple[int, int]:
        """How many tokens of the context are there already, and how many pages `begin` and all others would take."""
        n_pages = -(-max(self.n_context, len(self.source)) // PAGE)
        if not self._root:
            return 0, n_pages
        full, _, _, mark = self._find(self._root)
        held = sum(not self._cache.pages.is_idle(node.page) for node in full[: mark.n_tokens // PAGE])
        return mark.n_tokens, n_pages - held

    def begin(self) -> None:
        """Hold what there is of the context already, but for its last token, which is always computed."""
        if not self._root or self._n_pages:
            return
        full, partial, self._departure, mark = self._find(self._root)
        n_full = mark.n_tokens // PAGE
        self._nodes = full[:n_full]
        for node in self._nodes:
            self._cache.pages.hold(node.page)
        self._set_pages([node.page for node in self._nodes])
        self.n_computed = mark.n_tokens
        if self._states and mark.n_tokens:
            self._states.begin(mark)
        if self._windows:
            self._windows.begin(mark.n_tokens, self._nodes)
        if mark.n_tokens % PAGE:
            source = full[n_full] if n_full < len(full) else partial
            assert source
            self._begin_page(source)

    def _begin_page(self, node: Node) -> None:
        """Begin a page as another does."""
        pages, windows = self._cache.pages, self._windows
        pages.hold(node.page)
        if windows:
            windows.pages.hold(node.window)
        try:
            pages.require(1)
            if windows:
                windows.pages.require(1)
                windows.append(copy := windows.pages.take())
                windows.pages.copy(copy, node.window)
            self._set_pages([copy := pages.take()])
            pages.copy(copy, node.page)
        except NoPages:
            self.rewind(self.n_computed // PAGE * PAGE)
        finally:
            pages.drop(node.page)
            if windows:
                windows.pages.drop(node.window)

    def _find(self, root: Node) -> tuple[list[Node], Node | None, int, StateMark]:
        """What is there of the context but for its last token: full pages, the one that begins as it goes on, and how
        far that goes; and from where it can be gone on."""
        tokens = self.context[:-1]
        full, partial, n_more = self._cache.find(root, tokens)
        departure = len(full) * PAGE + n_more
        mark = self._resumable(departure, [*full, partial] if partial else full, tokens, root)
        return full, partial, departure, mark

    def _resumable(self, n: int, nodes: list[Node], tokens: np.ndarray, root: Node | None) -> StateMark:
        """After how many tokens, n at most, one can go on, and the state there: own, or left in the tree."""
        while True:
            m = self._windows.resumable(n, nodes) if self._windows else n
            if not self._states:
                return StateMark(m, NOTHING)
            mark = self._states.last(m)
            if root and mark.n_tokens < m:
                mark = max(mark, self._cache.find_state(root, nodes[: m // PAGE], tokens[:m]))
            if mark.n_tokens == n:
                return mark
            n = mark.n_tokens

    def n_missing(self, n_tokens: int) -> int:
        """How many pages must be taken so that this many more tokens can be computed."""
        n = max(self.n_computed + n_tokens, len(self.source))
        return max(0, -(-n // PAGE) - self._n_pages) + self._writes_to_shared

    def n_missing_windows(self, n_tokens: int) -> int:
        """The same of pages of layers that see only a window."""
        return self._windows.n_missing(self.n_computed + n_tokens) + self._writes_to_shared if self._windows else 0

    @property
    def n_missing_states(self) -> int:
        """How many records of states must be taken for the next step."""
        return self._states.n_missing(self.n_computed) if self._states else 0

    def reserve(self, n_tokens: int) -> None:
        """Take the pages that this many more tokens need, and what their state does. Raises NoPages."""
        pages, place = self._cache.pages, self.n_computed // PAGE
        pages.require(self.n_missing(n_tokens))
        if self._windows:
            self._windows.pages.require(self.n_missing_windows(n_tokens))
        if self._states:
            self._states.reserve(self.n_computed, self.n_computed + n_tokens)
        if self._writes_to_shared:
            shared, own = int(self.pages[place]), pages.take()
            pages.copy(own, shared)
            self.pages[place] = own
            del self._nodes[place:]
            pages.drop(shared)
            if self._windows:
                self._windows.own(place)
        elif self._tail and self.n_computed < len(self._nodes) * PAGE + self._tail.n_tokens:
            self._leave_tail()  # it is about to be overwritten
        self._set_pages([pages.take() for _ in range(self.n_missing(n_tokens))])
        if self._windows:
            self._windows.give_back(self.n_computed)
            self._windows.extend(self.n_computed + n_tokens)

    def drop_unseen(self, n: int) -> None:
        """Hold no longer pages of windows that no token after the first n sees."""
        if self._windows:
            self._windows.give_back(n)

    def plan_checkpoints(self, n_tokens: int) -> None:
        """Have the step, of which `reserve` was told, leave states for texts that begin alike.

        These are at a few page borders at regular distances, at the last one before the end of the text, from where it
        goes on if its last tokens change, and where this text departs from another: a third may do so too.
        """
        if not self._states or not self._root:
            return
        first, last, n_pages = self.n_computed + 1, self.n_computed + n_tokens, self.n_context // PAGE
        most = max(1, self._states.records.capacity // _CHECKPOINTS)
        distance = 1 << max(-(-n_pages // most) - 1, 0).bit_length()
        borders = range(-(-first // PAGE), last // PAGE + 1)
        wanted = {PAGE * page for page in borders if page % distance == 0 or page == (self.n_context - 1) // PAGE}
        if first <= self._departure <= last:
            wanted.add(self._departure)
        self._states.leave(sorted(wanted))

    def share(self, *, tail: bool) -> None:
        """Let others use what is computed of the text: full pages, and the last one too if `tail`."""
        if not self._root:
            return
        tokens, pages = self.context, self._cache.pages
        n = min(self.n_computed, len(tokens))
        for i in range(len(self._nodes), n // PAGE):
            self._leave_tail()
            node = self._cache.add(self._parent, int(self.pages[i]), tokens[i * PAGE : (i + 1) * PAGE])
            if node.page != self.pages[i]:  # another has computed the same meanwhile
                pages.hold(node.page)
                pages.drop(int(self.pages[i]))
                self.pages[i] = node.page
            self._nodes.append(node)
            if self._windows:
                self._windows.share(i, node)
        first = len(self._nodes) * PAGE
        if tail and n > first and (not self._tail or self._tail.n_tokens < n - first):
            self._leave_tail()
            node = self._cache.add(self._parent, page := int(self.pages[len(self._nodes)]), tokens[first:n])
            self._tail = node if node.page == page else None
            if self._windows and self._tail:
                self._windows.share(len(self._nodes), self._tail)
        self.drop_unseen(self.n_computed)
        if self._states:
            for mark in self._states.marks:
                if 0 < mark.n_tokens <= n and (mark.checkpoint or (tail and mark.n_tokens == n)):
                    page = mark.n_tokens // PAGE
                    above = self._nodes[page - 1] if page else self._root
                    self._cache.add_state(above, tokens[page * PAGE : mark.n_tokens], mark.record)
            self._states.pass_on()

    def rewind(self, n: int) -> int:
        """Forget what is computed beyond the first n tokens; gives how many of these could be kept."""
        if not 0 <= n <= self.n_computed:
            raise ValueError(f"cannot go back from {self.n_computed} tokens to {n}")
        mark = self._resumable(n, self._nodes, self.context, self._root)
        n = mark.n_tokens
        if self._states:
            self._states.rewind(mark)
        if self._windows:
            self._windows.rewind(n, self._nodes)
        self.n_computed = n
        kept = -(-max(n, self.n_source) // PAGE)
        if kept <= len(self._nodes):
            self._tail = None  # its page stays in the tree
        for page in self.pages[kept : self._n_pages][::-1].tolist():  # the last first: pages above it stay longer
            self._cache.pages.drop(page)
        del self._nodes[kept:]
        self._n_pages = min(kept, self._n_pages)
        return n

    def forget(self, start: int, n: int) -> None:
        """Leave n tokens of the context, from `start` on, out of it; what comes after is to be computed anew."""
        self.rewind(min(start, self.n_computed))
        self._forgotten = range(start, start + len(self._forgotten) + n)

    def release(self) -> None:
        """Give all pages back, for others to use what is in them. The text stays."""
        self.share(tail=True)
        self.n_source = 0
        self.rewind(0)

    def __del__(self) -> None:
        if self._n_pages:
            self._cache.pages.orphans.append(self.pages[: self._n_pages][::-1].tolist())
        if self._states and self._states.held:
            self._states.records.orphans.append(self._states.held)
        if self._windows and self._windows.held:
            self._windows.pages.orphans.append(self._windows.held)

    @property
    def _parent(self) -> Node:
        assert self._root
        return self._nodes[-1] if self._nodes else self._root

    @property
    def _writes_to_shared(self) -> bool:
        """Whether the next token goes to a page that is full, after a rewind: others may need what is there."""
        return self.n_computed < len(self._nodes) * PAGE

    def _leave_tail(self) -> None:
        if self._tail:
            self._cache.remove(self._tail)
            self._tail = None

    def _set_pages(self, more: list[int]) -> None:
        end = self._n_pages + len(more)
        while end > len(self.pages):
            self.pages = np.concatenate([self.pages, np.zeros_like(self.pages)])
        self.pages[self._n_pages : end] = more
        self._n_pages = end

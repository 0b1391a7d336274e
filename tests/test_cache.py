"""Pages and the prefix cache: whatever sequences do, each one's pages hold its own tokens, and no page is lost."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gguf_runtime import memory
from gguf_runtime.backends.pages import SLAB, KvTypes, PageLayout, PageMemory, WindowMemory
from gguf_runtime.backends.states import NOTHING, StateLayout, StateMemory, segments
from gguf_runtime.engine.cache import NoPages, PageAllocator, PrefixCache, capacities
from gguf_runtime.engine.sequence import Sequence
from gguf_runtime.graph import KvShape
from gguf_runtime.kernels.layout import PAGE

TEXT = st.lists(st.integers(0, 2), min_size=1, max_size=3).map(lambda parts: [p for p in parts for _ in range(45)])

_WINDOW = 100


def memories() -> list[PageMemory]:
    """Of two stages whose pages differ in size."""
    return [PageMemory(PageLayout({0: KvShape(1, dim, 16)}, KvTypes())) for dim in (16, 32)]


def slots(stage: PageMemory, page: int) -> np.ndarray:
    """i32[PAGE]: what a page holds of each token, here its id."""
    at = int(stage.table(np.array([page]))[0])
    return np.frombuffer((ctypes.c_uint8 * (4 * PAGE)).from_address(at), np.int32)


def state(stage: StateMemory, record: int) -> np.ndarray:
    """i64[2]: what a record holds, here how many tokens it has seen, and a number that depends on all of them."""
    return np.ctypeslib.as_array((ctypes.c_int64 * 2).from_address(stage.at(record, 0)))


def seen(n: int, number: int, tokens: list[int]) -> tuple[int, int]:
    """A state after some tokens more."""
    for token in tokens:
        n, number = n + 1, (3 * number + token + 1) % 1_000_003
    return n, number


def compute(
    sequence: Sequence, stages: list[PageMemory], tokens: list[int], states: StateMemory | None = None
) -> None:
    """What a step of two passes does: put something of each token in its place, and go on with the state."""
    if not tokens:
        return
    sequence.reserve(len(tokens))
    sequence.plan_checkpoints(len(tokens))
    half = -(-len(tokens) // 2)
    for first, n in ((0, half), (half, len(tokens) - half)) if states else ():
        for part in segments(sequence.marks, first, n, sequence.n_computed + first) if n else ():
            before = (0, 0) if part.source == NOTHING else state(states, part.source).tolist()
            state(states, part.target)[:] = seen(*before, tokens[part.first : part.first + part.n_tokens])
    for i, token in enumerate(tokens, sequence.n_computed):
        for stage in stages:
            slots(stage, int(sequence.pages[i // PAGE]))[i % PAGE] = token
    sequence.n_computed += len(tokens)


class Cache(RuleBasedStateMachine):
    """Random texts that begin alike, computed, guessed, taken back, shared, shifted, released, lost."""

    n_states = n_windows = 0

    def __init__(self) -> None:
        super().__init__()
        self.stages = memories()
        self.pages = PageAllocator(self.stages, 14)
        self.state = StateMemory(StateLayout({0: 16}), "test") if self.n_states else None
        self.states = PageAllocator([self.state], self.n_states) if self.state else None
        self.window = WindowMemory(PageLayout({1: KvShape(1, 16, 16)}, KvTypes()), _WINDOW)
        self.windows = PageAllocator([self.window], self.n_windows) if self.n_windows else None
        self.tree = PrefixCache(self.pages, self.states, self.windows)
        self.live: list[Sequence] = []

    @rule(text=TEXT, tree=st.sampled_from(["a", "b", None]))
    def begin(self, text: list[int], tree: str | None) -> None:
        root = None if tree is None else self.tree.root(tree)
        sequence = Sequence(self.tree, text, root)
        foreseen, _ = sequence.outlook()
        try:
            sequence.begin()
        except NoPages:
            return
        assert sequence.n_computed <= foreseen <= max(0, len(text) - 1)
        self.live.append(sequence)

    def compute(self, sequence: Sequence, tokens: list[int]) -> None:
        compute(sequence, self.stages, tokens, self.state)
        for i in range(sequence.n_computed - len(tokens), sequence.n_computed) if self.windows else ():
            slots(self.window, int(sequence.window_pages[i // PAGE]))[i % PAGE] = tokens[i - sequence.n_computed]

    @rule(i=st.integers(0, 9), n=st.integers(1, 200), tail=st.booleans())
    def advance(self, i: int, n: int, tail: bool) -> None:
        if not self.live:
            return
        sequence = self.live[i % len(self.live)]
        tokens = sequence.context[sequence.n_computed :][:n].tolist()
        before = sequence.n_computed, sequence.n_pages, self.pages.n_held
        try:
            self.compute(sequence, tokens)
        except NoPages:
            assert before == (sequence.n_computed, sequence.n_pages, self.pages.n_held)
        sequence.share(tail=tail)

    @rule(i=st.integers(0, 9), tokens=st.lists(st.integers(0, 2), min_size=1, max_size=70), n_right=st.integers(0, 70))
    def guess(self, i: int, tokens: list[int], n_right: int) -> None:
        """Compute what may prove wrong, and go on with what was right of it."""
        sequence = self.live[i % len(self.live)] if self.live else None
        if not sequence or sequence.n_left:
            return
        try:
            self.compute(sequence, tokens)
        except NoPages:
            return
        n = sequence.n_context
        sequence.share(tail=False)
        sequence.text.extend(tokens[:n_right])
        sequence.rewind(min(n + n_right, sequence.n_computed))
        sequence.share(tail=True)

    @rule(i=st.integers(0, 9), n=st.integers(0, 140))
    def rewind(self, i: int, n: int) -> None:
        sequence = self.live[i % len(self.live)] if self.live else None
        if sequence and not sequence._forgotten:
            n = min(n, sequence.n_computed)
            kept = sequence.rewind(n)
            assert kept == n or ((self.states or self.windows) and kept < n)
            sequence.text.truncate(max(n, 1))
            sequence.text.append(n % 3)

    @rule(i=st.integers(0, 9), start=st.integers(0, 100), n=st.integers(1, 60))
    def shift(self, i: int, start: int, n: int) -> None:
        sequence = self.live[i % len(self.live)] if self.live else None
        if sequence and not sequence._forgotten and start + n < sequence.n_context:
            sequence.forget(start, n)
            ids = sequence.text.ids
            assert sequence.context.tolist() == [*ids[:start], *ids[start + n :]]

    @rule(i=st.integers(0, 9), properly=st.booleans())
    def end(self, i: int, properly: bool) -> None:
        if self.live:
            sequence = self.live.pop(i % len(self.live))
            if properly:
                sequence.release()
                assert sequence.n_pages == sequence.n_computed == 0

    @invariant()
    def every_sequence_has_its_own_tokens(self) -> None:
        for sequence in self.live:
            n, pages = min(sequence.n_computed, sequence.n_context), sequence.pages[: sequence.n_pages].tolist()
            for stage in self.stages:
                held = np.concatenate([slots(stage, page) for page in pages]) if pages else np.zeros(0)
                assert held[:n].tolist() == sequence.context[:n].tolist()

    @invariant()
    def no_page_is_lost_or_held_twice(self) -> None:
        held = {page for sequence in self.live for page in sequence.pages[: sequence.n_pages].tolist()}
        assert self.pages.n_available + len(held) == self.pages.capacity
        assert self.pages.n_held == len(held)

    @invariant()
    def every_sequence_has_its_own_state(self) -> None:
        for sequence in self.live if self.state else ():
            n = sequence.n_computed
            (mark,) = [mark for mark in sequence.marks if mark.n_tokens == n]
            if n and n <= sequence.n_context:
                assert self.state
                assert tuple(state(self.state, mark.record)) == seen(0, 0, sequence.context[:n].tolist())

    @invariant()
    def every_sequence_has_what_its_window_sees(self) -> None:
        for sequence in self.live if self.windows else ():
            n, first = sequence.n_computed, max(0, sequence.n_computed - _WINDOW + 1)
            if n <= sequence.n_context:
                held = [slots(self.window, int(sequence.window_pages[i // PAGE]))[i % PAGE] for i in range(first, n)]
                assert held == sequence.context[first:n].tolist()

    @invariant()
    def no_page_of_a_window_is_lost(self) -> None:
        if self.windows:
            held = {page for sequence in self.live for page in sequence.windows_held}
            assert self.windows.n_available + len(held) == self.windows.capacity

    @invariant()
    def no_state_is_lost(self) -> None:
        if self.states:
            held = {mark.record for sequence in self.live for mark in sequence.marks} - {NOTHING}
            assert self.states.n_available + len(held) == self.states.capacity

    def teardown(self) -> None:
        for sequence in self.live:
            sequence.release()
        assert self.pages.n_held == 0 and (not self.states or self.states.n_held == 0)


class CacheWithStates(Cache):
    n_states = 9


class CacheWithFewStates(Cache):
    n_states = 2


class CacheWithWindows(Cache):
    n_windows = 9


class CacheWithAll(Cache):
    n_states, n_windows = 6, 7


Cache.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCache = Cache.TestCase
for machine in CacheWithStates, CacheWithFewStates, CacheWithWindows, CacheWithAll:
    machine.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestCacheWithStates, TestCacheWithFewStates = CacheWithStates.TestCase, CacheWithFewStates.TestCase
TestCacheWithWindows, TestCacheWithAll = CacheWithWindows.TestCase, CacheWithAll.TestCase


def test_the_least_recently_used_text_gives_way() -> None:
    stages = memories()
    pages = PageAllocator(stages, 7)
    tree = PrefixCache(pages)

    def use(token: int, n: int = 2 * PAGE) -> int:
        sequence = Sequence(tree, [token] * n, tree.root(""))
        sequence.begin()
        found = sequence.n_computed
        compute(sequence, stages, sequence.context[found:].tolist())
        sequence.release()
        return found

    assert [use(token) for token in (1, 2, 3, 1, 2, 3)] == [0, 0, 0, 127, 127, 127]
    assert use(4) == 0
    assert use(1) == PAGE  # of the oldest text the last page has gone first


def test_texts_of_another_tree_are_not_found() -> None:
    stages = memories()
    tree = PrefixCache(PageAllocator(stages, 20))
    for name in ("a", ("lora", "q8_0")):
        sequence = Sequence(tree, [5] * 150, tree.root(name))
        sequence.begin()
        assert sequence.n_computed == 0
        compute(sequence, stages, [5] * 150)
        sequence.release()


def test_memory_that_is_not_there_is_no_pages() -> None:
    stages = memories()
    pages = PageAllocator(stages, 1000)

    def refuse(n_bytes: int) -> None:
        raise MemoryError

    taken = [pages.take() for _ in range(SLAB)]
    stages[1].heap = stages[1].heap._replace(allocate=refuse)
    with pytest.raises(NoPages, match="--kv-memory"):
        pages.take()
    assert pages.capacity == SLAB
    pages.drop(taken[3])
    assert pages.take() == taken[3]


def test_a_budget_is_kept() -> None:
    stages = memories()
    size = sum(stage.n_bytes for stage in stages)
    assert capacities(stages, [], [], 10 * size + 5, 0)[0] == 10
    with pytest.raises(ValueError, match="smaller than a page"):
        capacities(stages, [], [], size - 1, 0)
    free = memory.available()
    assert free > 0 and SLAB <= capacities(stages, [], [], 0, 0)[0] <= free // size


def test_a_page_is_read_and_written_as_it_is() -> None:
    stage = memories()[0]
    stage.extend_to(2)
    data = np.random.default_rng(0).bytes(stage.n_bytes)
    stage.write(1, data)
    stage.copy(0, 1)
    assert stage.read(0) == stage.read(1) == data

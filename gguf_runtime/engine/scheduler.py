"""Which sequences a step takes forward, and by how many tokens.

Answers that are being written get their next token in every step. What time is left under a bound goes to prompts, so
that a long prompt does not hold up the others. The order is that of fairness.py: prompts of a round share the time, and
an answer that comes before others takes the place of the last of them. Where pages run out, it is the last one too that
gives its own back, and computes them anew later, as far as the prefix cache has lost them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable
from time import perf_counter
from typing import Protocol
from weakref import ref

from ..backends import Chunk
from ..fairness import in_turn, rounds
from ..kernels.layout import PAGE
from ..text import common
from .cache import NoPages
from .engine import Engine
from .logits import Logits
from .sequence import Sequence

_LEAST = 32  # tokens of prompts in a step, however long they take: fewer cost nearly as much
_SLOWDOWN = 3  # how much longer a step with prompts may take than one without, where that is above the bound
_WORTH_WAITING = 16  # tokens that another prompt is about to compute
_ALIGNED = 16  # tokens that kernels take together
_PASSES = 4  # of a prompt in a step, where layers keep only what a window sees: until the step ends, all is kept
_STATES = 2  # that a sequence holds: what a step begins from, and what it leaves


class Request(Protocol):
    """An answer to be made. The scheduler holds it weakly: what nobody else holds any more is given up."""

    sequence: Sequence  # its prompt, and then what `take` adds
    alone: bool  # whether no other may be in its steps, in which sums are made in another order
    n_best: int  # of how many of the likeliest tokens it wants to know that they are these, about
    normalizes: bool  # whether it wants probabilities
    client: Hashable  # on whose behalf, and priority: who goes first
    priority: int

    @property
    def done(self) -> bool:
        """Whether there is nothing more to compute."""

    @property
    def is_ahead(self) -> bool:
        """Whether it shall wait for its reader."""

    def guess(self) -> list[int]:
        """What may follow the sequence's last token, to be computed together with it."""

    def take(self, logits: Logits, chunk: Chunk, start: float, *, alone: bool) -> None:
        """Go on with the text, given what a step made of its chunk.

        start: when the step began, by the scheduler's clock. alone: whether it had only this chunk.
        """

    def fail(self, error: Exception) -> None:
        """It cannot be gone on with."""


class _Slot:
    """A request's place in the queue. running: it has pages; active: it is to be taken forward now."""

    def __init__(self, request: Request) -> None:
        self.request, self.sequence = ref(request), request.sequence
        self.client, self.priority = request.client, request.priority
        self.running = self.active = self.aborted = False


class Scheduler:
    """Takes requests forward, all that are there in each step. May be used by several threads.

    n_parallel: answers that are made at once; step_seconds: how long a step with prompts may take while others wait
    for their next token; whole_prompts: compute a prompt in one step where nobody waits so, which several devices in a
    row like, but who comes or goes meanwhile does not; clock: gives seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        n_parallel: int = 32,
        step_seconds: float = 0.1,
        whole_prompts: bool = True,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.engine, self.clock = engine, clock
        self.n_parallel, self.step_seconds, self.whole_prompts = n_parallel, step_seconds, whole_prompts
        self.n_computed = self.n_preempted = 0  # tokens in all steps; answers that had to give back their pages
        self._slots: list[_Slot] = []  # in the order of arrival
        self._seconds: dict[bool, float] = {}  # of a unit of step_cost, in steps without and with prompts

    def add(self, request: Request) -> None:
        """Have a request taken forward from the next step on."""
        with self.engine.lock:
            self._slots.append(_Slot(request))

    def abort(self, request: Request) -> None:
        """Give up a request: its pages are free at once, or after the step that is under way."""
        for slot in self._slots:
            slot.aborted |= slot.request() is request
        if self.engine.lock.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self.engine.lock.release()

    def step(self) -> bool:
        """Take all requests forward; whether there was anything to do.

        What goes wrong in an answer ends this one; what goes wrong in the step itself, all that are in it.
        """
        with self.engine.lock:
            return self._step()

    def advance(self, request: Request, ready: Callable[[], object]) -> None:
        """A step, unless what this request waits for is there: another thread may have taken it."""
        with self.engine.turn():
            if not ready():
                self._step()

    def _step(self) -> bool:
        requests = self._sweep()
        plan = self._plan(requests)
        if not plan:
            return False
        start = self.clock()
        try:
            logits = self._compute(plan, [requests[slot] for slot, chunk in plan.items() if chunk.n_logits])
        except Exception as error:
            for slot in plan:
                self._fail(slot, error)
            return True
        n_tokens = sum(len(chunk.tokens) for chunk in plan.values())
        self.n_computed += n_tokens
        self._note_time(n_tokens, any(chunk.n_logits < len(chunk.tokens) for chunk in plan.values()), start)
        todo, first = list(plan.items()), 0
        try:
            while todo:
                slot, chunk = todo[0]
                self._hand_out(slot, chunk, logits.part(first, first + chunk.n_logits), start, len(plan) == 1)
                first += chunk.n_logits
                del todo[0]
        except BaseException:  # an interrupt: what has not been taken shall be computed again
            for slot, chunk in todo:
                slot.sequence.rewind(min(chunk.position, slot.sequence.n_computed))
            raise
        return True

    def _compute(self, plan: dict[_Slot, Chunk], asking: list[Request]) -> Logits:
        """The step itself; asking: the requests that get logits."""
        rows = self.engine.step(plan.values())
        n_best = max((request.n_best for request in asking), default=0)
        try:
            return self.engine.look_over(rows, n_best, any(request.normalizes for request in asking))
        except BaseException:  # an interrupt
            for slot, chunk in plan.items():
                slot.sequence.rewind(chunk.position)
            raise

    def _hand_out(self, slot: _Slot, chunk: Chunk, logits: Logits, start: float, alone: bool) -> None:
        if not (request := slot.request()):
            return
        try:
            request.take(logits, chunk, start, alone=alone)
        except Exception as error:
            slot.sequence.rewind(chunk.position)
            self._fail(slot, error)
        else:
            slot.sequence.share(tail=chunk.n_logits < len(chunk.tokens))
            if request.done:
                slot.sequence.release()

    def _sweep(self) -> dict[_Slot, Request]:
        """The requests that are not done; those that are give their pages back."""
        found = {
            slot: request
            for slot in self._slots
            if not slot.aborted and (request := slot.request()) and not request.done
        }
        for slot in self._slots:
            if slot not in found:
                slot.sequence.release()
        self._slots = list(found)
        return found

    def _plan(self, requests: dict[_Slot, Request]) -> dict[_Slot, Chunk]:
        """What the next step computes."""
        active = in_turn(slot for slot, request in requests.items() if not request.is_ahead)[: self.n_parallel]
        n_together = next((i for i, slot in enumerate(active) if requests[slot].alone), len(active))
        active = active[: max(n_together, 1)]
        for slot in requests:
            slot.active = slot in active
        writing = [slot for slot in active if slot.running and slot.sequence.n_left == 1]
        prompts = [slot for slot in active if slot not in writing]
        plan: dict[_Slot, Chunk] = {}
        for slot in writing:
            try:
                guess = requests[slot].guess() if len(active) == 1 else []  # others' tokens are worth more than guesses
            except Exception as error:
                self._fail(slot, error)
                continue
            if self._reserve(slot, 1 + len(guess), plan):
                plan[slot] = slot.sequence.chunk(1, 1, guess)
        room = self._room(len(writing), prompts) if prompts else 0
        for together in rounds(prompts):
            for i, slot in enumerate(together):
                if room <= 0 or not (slot.running or self._admit(slot, plan)):
                    return plan
                n = left = slot.sequence.n_left
                if n > (share := -(-room // (len(together) - i))):
                    n = max(share // _ALIGNED, 1) * _ALIGNED
                if slot.running and self._reserve(slot, n := min(n, left), plan):
                    plan[slot] = slot.sequence.chunk(n, int(n == left), [])
                    room -= n
        return plan

    def _admit(self, slot: _Slot, plan: dict[_Slot, Chunk]) -> bool:
        """Let a request begin, unless a prompt of this step has the same beginning; False where there are no pages."""
        sequence = slot.sequence
        n_there, n_pages = sequence.outlook()
        for other in (other.sequence for other, chunk in plan.items() if chunk.n_logits < len(chunk.tokens)):
            n = min(common(other.context, sequence.context), sequence.n_context - 1)
            if n > other.n_computed and n - n_there >= _WORTH_WAITING:
                return True
        n_running = sum(other.running and other.active for other in self._slots)
        states = self.engine.states
        if n_running and states and states.n_available < _STATES:
            return False
        if n_running and n_pages + n_running > self.engine.pages.n_available:
            return False
        sequence.begin()
        slot.running = True
        return True

    def _reserve(self, slot: _Slot, n_tokens: int, plan: dict[_Slot, Chunk]) -> bool:
        """Take pages for more tokens, from those whose turn is last if need be; False where this one has to wait."""
        while slot.running:
            try:
                slot.sequence.reserve(n_tokens)
                return True
            except NoPages as error:
                running = in_turn(other for other in self._slots if other.running)
                last = max(reversed(running), key=lambda other: not other.active)
                if last is slot and len(running) == 1:
                    self._fail(slot, error)
                else:
                    self.n_preempted += 1
                    last.sequence.release()
                    last.running = False
                    plan.pop(last, None)
        return False

    def _room(self, n_writing: int, prompts: list[_Slot]) -> int:
        """How many tokens of prompts the step may have."""
        if not n_writing:  # nobody waits for a next token: a whole prompt, or as many as fit a pass
            left, windows = prompts[0].sequence.n_left if self.whole_prompts else 0, self.engine.windows
            most = max(self.engine.n_ubatch, left)
            if windows:
                most = min(most, _PASSES * self.engine.n_ubatch, max(windows.n_available - 1, 1) * PAGE)
            return most
        most = sum(slot.sequence.n_left for slot in prompts)
        cost = self.engine.step_cost
        plain = self._seconds.get(False, 0.0)
        bound = max(self.step_seconds, _SLOWDOWN * plain * cost(n_writing))
        seconds = self._seconds.get(True, plain)
        n = bisect_right(range(1, most + 1), bound, key=lambda n: seconds * cost(n_writing + n))
        return max(_LEAST, n)

    def _note_time(self, n_tokens: int, with_prompts: bool, start: float) -> None:
        seconds = (self.clock() - start) / self.engine.step_cost(n_tokens)
        self._seconds[with_prompts] = (self._seconds.get(with_prompts, seconds) + seconds) / 2

    def _fail(self, slot: _Slot, error: Exception) -> None:
        slot.sequence.release()
        slot.running = False
        if request := slot.request():
            request.fail(error)

"""A text in the KV cache with the ids of its tokens: what one prompt has computed, the next can begin with."""

from __future__ import annotations

from collections.abc import Sequence

from .engine import Chunk, Engine


class Context:
    """One text that grows, is cut back, and grows again. `tokens`: ids of what is computed, in order.

    One answer at a time goes on from it: the latest to `take_over`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sequence = engine.new_sequence()
        self.tokens: list[int] = []
        self._holder: object = None

    def take_over(self) -> object:
        """A token of who may go on from here, until another one takes over."""
        self._holder = object()
        return self._holder

    def is_held_by(self, holder: object) -> bool:
        return self._holder is holder

    def begin(self, tokens: Sequence[int]) -> Chunk:
        """Forget all that these tokens do not begin with. What is left of them, the last at least, is to be computed.

        So any text that shares its beginning with this one costs only what is new, whatever was asked before.
        """
        with self.engine.lock:
            same = min(common(self.tokens, tokens), len(tokens) - 1, self.sequence.n_tokens)
            self.truncate(same)
            return Chunk(self.sequence, tokens[same:])

    def note(self, chunk: Chunk) -> None:
        """The engine has computed this chunk."""
        self.tokens += chunk.tokens

    def truncate(self, n_tokens: int) -> None:
        """Forget all but the first n_tokens."""
        with self.engine.lock:
            self.sequence.truncate(n_tokens)
            del self.tokens[n_tokens:]

    def fork(self) -> Context:
        """Another context that begins as this one is."""
        other = Context(self.engine)
        with self.engine.lock:
            other.sequence.grow(len(self.tokens))
            for (pool, page), (_, copy) in zip(self.sequence.pages(), other.sequence.pages(), strict=True):
                pool.write(copy, pool.read(page))
            other.tokens, other.sequence.n_tokens = list(self.tokens), len(self.tokens)
        return other

    @property
    def is_full(self) -> bool:
        return self.sequence.n_tokens >= self.engine.n_ctx

    def release(self) -> None:
        """Give the cache's memory back; the context is empty then."""
        self.truncate(0)

    def __del__(self) -> None:  # an answer that nobody waited for; at any moment, so without waiting for the lock
        self.sequence.release()


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    same, n = 0, min(len(a), len(b))
    while same < n:  # halves, since lists are compared as a whole far faster than number by number
        middle = (same + n + 1) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            n = middle - 1
    return same

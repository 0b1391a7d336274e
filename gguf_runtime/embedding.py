"""Texts as vectors, and how well they answer a query: what embedding models and rerankers make of whole texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from .architectures import Model, Result
from .chat.marks import Marks
from .engine import Chunk, ContextFull, Engine
from .loader import GGUFFile
from .tokenizer import Tokenizer

Pooling = Literal["none", "mean", "cls", "last", "rank"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
Progress = Callable[[int], object]

_RESULTS: dict[Pooling, Result] = {
    "none": "embeddings", "mean": "mean", "cls": "first", "last": "last", "rank": "rank"
}  # fmt: skip
_TOGETHER = 512  # tokens of short texts that are computed in one pass: more gain nothing


def default_pooling(model: Model) -> Pooling:
    """As the file says; else a mean, or of a model that was made to generate its last token, which has seen all."""
    named = {result: name for name, result in _RESULTS.items()}
    return named[model.pooling] if model.pooling else "last" if model.generates else "mean"


class Embedder:
    """A model that gives a row for each text, or with pooling "none" for each token.

    n_most: tokens that a text may have. Raises ModelError where the model has nothing to pool so. Several threads may
    use it: they take turns.
    """

    def __init__(self, file: GGUFFile, tokenizer: Tokenizer, pooling: Pooling, settings: Mapping[str, Any]) -> None:
        """settings: of the engine."""
        self.engine = Engine(file, result=_RESULTS[pooling], **settings)
        self.pooling, self._tokenizer = pooling, tokenizer
        self.n_most = min(self.engine.n_ctx, self.engine.n_ubatch) if self.engine.model.whole else self.engine.n_ctx
        self._pair_template = file.metadata.get("tokenizer.chat_template.rerank")

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.engine.model.graph.result.size

    def tokens(self, text: str | Sequence[int], prefix: str = "") -> list[int]:
        """Token ids of a text, with the special tokens that the model wants; special tokens in it are understood."""
        if isinstance(text, str):
            return self._tokenizer.encode(prefix + text, parse_special=True)
        return list(text)

    def pair(self, query: str, text: str) -> list[int]:
        """Token ids of a query and a text to be ranked by it, neither of which can spell special tokens."""
        tokenizer = self._tokenizer
        if isinstance(template := self._pair_template, str):
            mark = Marks([tokenizer.piece(i) for i in tokenizer.control_ids], ())
            parts = {"{query}": mark(query), "{document}": mark(text)}
            filled = re.sub(r"\{query\}|\{document\}", lambda name: parts[name[0]], template)
            return tokenizer.encode(filled, add_special=False, parse_special=True)
        begin, between, end = tokenizer.pair_frame
        first, second = (tokenizer.encode(part, add_special=False) for part in (query, text))
        return [*begin, *first, *between, *second, *end]

    def fit(self, tokens: list[int], *, truncate: bool, number: int = 0) -> list[int]:
        """The tokens of a text, if need be without some before its end. Raises ContextFull, ValueError for none.

        number: of the text among others, for messages.
        """
        if not tokens:
            raise ValueError(f"text {number + 1} has no tokens")
        if len(tokens) > self.n_most:
            if not truncate:
                raise ContextFull(
                    f"text {number + 1} has {len(tokens)} tokens, and the model takes {self.n_most} at once: "
                    "shorten it, have it truncated, or ask for a larger context and pass (-c, -ub)"
                )
            n_end = int(tokens[-1] in self._tokenizer.special_ids)
            return [*tokens[: self.n_most - n_end], *tokens[len(tokens) - n_end :]]
        return tokens

    def run(self, texts: Sequence[Sequence[int]], progress: Progress | None = None) -> list[np.ndarray]:
        """What the model makes of each text's tokens: f32[width]; f32[n_tokens, width] with pooling "none".

        Longer texts come first, so that those which are computed together are of about one length. progress: is called
        with the number of texts that are done, after each pass.
        """
        found: list[np.ndarray | None] = [None] * len(texts)
        n_done, per_token = 0, self.pooling == "none"
        for group in _groups([len(text) for text in texts], min(_TOGETHER, self.n_most)):
            with self.engine.turn():
                chunks = [
                    Chunk(self.engine.new_sequence(), np.asarray(texts[i]), len(texts[i]) if per_token else 1)
                    for i in group
                ]
                try:
                    rows = self.engine.step(chunks)
                finally:
                    for chunk in chunks:
                        chunk.sequence.rewind(0)
            first = 0
            for i, chunk in zip(group, chunks, strict=True):
                found[i] = rows[first : first + chunk.n_logits] if per_token else rows[first]
                first += chunk.n_logits
            n_done += len(group)
            if progress:
                progress(n_done)
        return [rows for rows in found if rows is not None]

    def close(self) -> None:
        self.engine.close()


def normalised(rows: np.ndarray) -> np.ndarray:
    """f32[…, width]: rows of Euclidean length 1; those of zeros stay so."""
    lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=-1, keepdims=True))
    return (rows / np.where(lengths, lengths, 1)).astype(np.float32)


def _groups(lengths: Sequence[int], n_tokens: int) -> Iterator[list[int]]:
    """Numbers of texts, the longest first, together as long as they have no more than n tokens; or a longer one."""
    group: list[int] = []
    n = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if group and n + lengths[i] > n_tokens:
            yield group
            group, n = [], 0
        group.append(i)
        n += lengths[i]
    if group:
        yield group

"""Texts as vectors, and how well they answer a query: what embedding models and rerankers make of whole texts."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import numpy as np

from . import arguments
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
TOGETHER = 512  # tokens of short texts that are computed in one pass: more gain nothing


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
                    f"text {number + 1} is too large: it has {len(tokens)} tokens, and the model takes {self.n_most} "
                    "at once: shorten it, have it truncated, or ask for a larger context and pass "
                    "(-c, -ub; n_ctx, n_ubatch)"
                )
            n_end = int(tokens[-1] in self._tokenizer.special_ids)
            return [*tokens[: self.n_most - n_end], *tokens[len(tokens) - n_end :]]
        return tokens

    def step(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """What the model makes of each text's tokens, in one pass: f32[width]; f32[n_tokens, width] with pooling
        "none"."""
        per_token = self.pooling == "none"
        with self.engine.turn():
            sequences = [self.engine.new_sequence() for _ in texts]
            chunks = [
                Chunk(sequence, np.asarray(text), len(text) if per_token else 1)
                for sequence, text in zip(sequences, texts, strict=True)
            ]
            try:
                rows = self.engine.step(chunks)
            finally:
                for sequence in sequences:
                    sequence.release()
        return np.split(rows, np.cumsum([chunk.n_logits for chunk in chunks])[:-1]) if per_token else [*rows]

    def close(self) -> None:
        self.engine.close()


class EmbeddingJob:
    """Texts of which rows are made a pass at a time, so that other work can come between.

    n_tokens: of all texts; width: of a row; n_done: texts that have theirs.
    """

    def __init__(
        self, embedder: Embedder, texts: Sequence[Sequence[int]], *, normalize: bool = False, dimensions: int = 0
    ) -> None:
        """texts: token ids, that fit. normalize, dimensions: as in `Embedding.embed`."""
        if arguments.whole("dimensions", dimensions, 0) > embedder.width:
            raise ValueError(f"dimensions: the model gives {embedder.width}, not {dimensions}")
        self._embedder, self._texts, self._normalize = embedder, texts, normalize
        self.width = dimensions or embedder.width
        self.n_tokens = sum(map(len, texts))
        self._left = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        self._rows: dict[int, np.ndarray] = {}

    @property
    def n_done(self) -> int:
        return len(self._rows)

    @property
    def done(self) -> bool:
        return not self._left

    @property
    def rows(self) -> list[np.ndarray]:
        """Of each text, once all is done: f32[width]; f32[n_tokens, width] with pooling "none"."""
        return [self._rows[i] for i in range(len(self._rows))]

    def step(self, n_together: int = TOGETHER) -> None:
        """A pass over texts that have no more tokens than that together; or over a longer one.

        Longer texts come first, so that those which are computed together are of about one length.
        """
        n_most = min(n_together, self._embedder.n_most)
        group: list[int] = []
        n = 0
        while self._left and (not group or n + len(self._texts[self._left[-1]]) <= n_most):
            group.append(self._left.pop())
            n += len(self._texts[group[-1]])
        for i, row in zip(group, self._embedder.step([self._texts[i] for i in group]), strict=True):
            row = row[..., : self.width]
            self._rows[i] = normalised(row) if self._normalize else row

    def run(self, progress: Progress | None = None) -> list[np.ndarray]:
        """All passes; gives the rows. progress: is called with the number of texts that are done, after each."""
        while not self.done:
            self.step()
            if progress:
                progress(self.n_done)
        return self.rows


class Embedding:
    """What an LLM does with whole texts."""

    def __init__(self, file: GGUFFile, tokenizer: Tokenizer, model: Model, settings: Mapping[str, Any]) -> None:
        """model: as the file is made; settings: of engines."""
        self.model = model
        self._file, self._tokenizer, self._settings = file, tokenizer, settings
        self._embedders: dict[Pooling, Embedder] = {}
        self._lock = threading.Lock()

    def embed(
        self,
        texts: str | Sequence[str | Sequence[int]],
        *,
        pooling: str | None = None,
        normalize: bool = True,
        dimensions: int = 0,
        prefix: str = "",
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """f32[n_texts, width]: each text as a vector, similar ones for texts of similar meaning; f32[width] for one.

        texts: text, or token ids. pooling: which tokens' embeddings make the text's: mean, cls (the first token's) or
        last; None for what the file says, or else mean, and last of models that generate. normalize: to length 1.
        dimensions: keep so many of the first numbers, for models that were trained for it (Matryoshka); 0 for all.
        prefix: comes before each text, as some models want it, such as "search_query: ". truncate: leave out the end of
        texts that are too long rather than raise ContextFull. progress: is called with the number of texts done.
        """
        embedder = self.embedder(pooling)
        if embedder.pooling in ("none", "rank"):
            instead = "rerank" if embedder.pooling == "rank" else "embed_tokens"
            raise ValueError(f"pooling {embedder.pooling} gives no vectors of texts: it is for {instead}")
        job = self.embedding_job(
            [texts] if isinstance(texts, str) else texts,
            pooling=pooling, normalize=normalize, dimensions=dimensions, prefix=prefix, truncate=truncate,
        )  # fmt: skip
        rows = job.run(progress)
        vectors = np.stack(rows) if rows else np.empty((0, job.width), np.float32)
        return vectors[0] if isinstance(texts, str) else vectors

    def embed_tokens(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        normalize: bool = False,
        prefix: str = "",
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """f32[n_tokens, width] of each text: its tokens' embeddings. Arguments as in `embed`."""
        job = self.embedding_job(texts, pooling="none", normalize=normalize, prefix=prefix, truncate=truncate)
        return job.run(progress)

    def rerank(
        self,
        query: str,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """f32[n_texts]: how well each text answers the query, more for better, as the model scores it: most give
        logits, Qwen 3 a share. Raises ModelError where the model is no reranker."""
        return np.array([row[0] for row in self.rerank_job(query, texts, truncate=truncate).run(progress)], np.float32)

    def embedding_job(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        pooling: str | None = None,
        normalize: bool = True,
        dimensions: int = 0,
        prefix: str = "",
        truncate: bool = False,
    ) -> EmbeddingJob:
        """The same as `embed`, for whoever takes its steps; with pooling "none" as `embed_tokens`."""
        embedder, prefix = self.embedder(pooling), arguments.text("prefix", prefix)
        n_vocab, given = embedder.engine.n_vocab, arguments.several("texts", texts)
        ids = [text if isinstance(text, str) else arguments.tokens("texts", text, n_vocab) for text in given]
        tokens = [embedder.tokens(text, prefix) for text in ids]
        return self._job(embedder, tokens, truncate, normalize=normalize, dimensions=dimensions)

    def rerank_job(self, query: str, texts: Sequence[str], *, truncate: bool = False) -> EmbeddingJob:
        """The same as `rerank`, for whoever takes its steps: a text's score is its row's first number."""
        embedder = self.embedder("rank")
        pairs = [embedder.pair(arguments.text("query", query), text) for text in arguments.texts("texts", texts)]
        return self._job(embedder, pairs, truncate)

    def embedder(self, pooling: str | None = None) -> Embedder:
        """What `embed` and `rerank` work with, made when first needed; it tells tokens and their number."""
        kind = cast(Pooling, arguments.one_of("pooling", pooling or default_pooling(self.model), POOLINGS))
        with self._lock:
            if kind not in self._embedders:
                self._embedders[kind] = Embedder(self._file, self._tokenizer, kind, self._settings)
            return self._embedders[kind]

    @staticmethod
    def _job(embedder: Embedder, texts: Sequence[list[int]], truncate: bool, **options: Any) -> EmbeddingJob:
        fitting = [embedder.fit(text, truncate=truncate, number=i) for i, text in enumerate(texts)]
        return EmbeddingJob(embedder, fitting, **options)

    def close_embedders(self) -> None:
        for embedder in self._embedders.values():
            embedder.close()


def normalised(rows: np.ndarray) -> np.ndarray:
    """f32[…, width]: rows of Euclidean length 1; those of zeros stay so."""
    lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=-1, keepdims=True))
    return (rows / np.where(lengths, lengths, 1)).astype(np.float32)

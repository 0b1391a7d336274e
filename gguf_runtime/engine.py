"""The engine: a model, its KV cache, and one step that takes any number of sequences forward."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items
from contextlib import closing
from typing import NamedTuple

import numpy as np

from . import architectures, stages
from .backends import Part
from .cache import Sequence
from .kernels.cores import physical_cores
from .loader import GGUFFile
from .pipeline import Pipeline
from .splitter import Offload


class EngineError(Exception):
    """A step, or a setting, that cannot be carried out."""


class ContextFull(EngineError):
    """A sequence would outgrow the context."""


class Chunk(NamedTuple):
    """Tokens to append to a sequence; logits are wanted for the last `n_logits` of them."""

    sequence: Sequence
    tokens: Items[int]
    n_logits: int = 1


class Engine:
    """Runs one model.

    n_ctx: tokens that one sequence may have, 0 for what the model was trained for; n_ubatch: tokens computed in one
    pass, 0 for 512 on the CPU and 2,048 on a GPU, if there is room; n_threads: 0 for the number of physical cores;
    type_k, type_v: how the cache keeps keys and values (f16, q8_0, q4_0); offload: which layers go to a GPU. Raises
    ModelError, PlanError, SplitError or ValueError.
    """

    def __init__(
        self,
        file: GGUFFile,
        *,
        n_ctx: int = 0,
        n_ubatch: int = 0,
        n_threads: int = 0,
        type_k: str = "f16",
        type_v: str = "f16",
        offload: Offload = Offload(),  # noqa: B008
    ) -> None:
        self.model = architectures.load(file)
        self.n_ctx = n_ctx or self.model.n_ctx_train
        self.n_vocab = self.model.n_vocab
        self.n_threads = n_threads or physical_cores()
        settings = stages.Settings(self.n_ctx, n_ubatch, self.n_threads, type_k, type_v)
        self.placement = stages.Placement(self.model, offload, settings)
        self._pipeline = Pipeline(self.placement.stages)
        self.n_ubatch = self._pipeline.n_batch

    def new_sequence(self) -> Sequence:
        """An empty sequence."""
        return Sequence(self._pipeline.pools)

    def step(self, chunks: Iterable[Chunk]) -> np.ndarray:
        """Append each chunk's tokens to its sequence; gives f32[sum of n_logits, n_vocab], in the chunks' order.

        One ragged batch, however many sequences; what exceeds one pass's tokens is run in several. Raises
        ContextFull, EngineError for a token that is not in the vocabulary; then nothing has changed.
        """
        parts = self._parts(list(chunks))
        done: list[Part] = []
        logits = []
        try:
            batches = self._pipeline.batches(parts)
            with closing(self._pipeline.run(batches)) as results:
                for batch, result in zip(batches, results, strict=True):
                    logits.append(result)
                    for part in batch.parts:
                        part.sequence.n_tokens += len(part.tokens)
                        done.append(part)
        except BaseException:  # interrupted: forget what was half done
            for part in reversed(done):
                part.sequence.truncate(part.position)
            raise
        return np.concatenate(logits) if len(logits) != 1 else logits[0]

    def step_cost(self, n_tokens: int) -> float:
        """About what a step of n tokens costs, in steps of one."""
        return self._pipeline.step_cost(n_tokens)

    def close(self) -> None:
        """End the threads."""
        self._pipeline.close()
        self.placement.close()

    def _parts(self, chunks: list[Chunk]) -> list[Part]:
        if len({id(chunk.sequence) for chunk in chunks}) < len(chunks):
            raise EngineError("a sequence appears twice in one step")
        parts = []
        for sequence, tokens, n_logits in chunks:
            ids = np.asarray(tokens, np.int64)
            if not len(ids) or not 0 <= n_logits <= len(ids):
                raise EngineError(f"a chunk of {len(ids)} tokens cannot give logits for {n_logits}")
            if ids.min() < 0 or ids.max() >= self.n_vocab:
                raise EngineError(f"token {ids.min() if ids.min() < 0 else ids.max()} is not in the vocabulary")
            if sequence.n_tokens + len(ids) > self.n_ctx:
                raise ContextFull(
                    f"{sequence.n_tokens} + {len(ids)} tokens do not fit the context of {self.n_ctx}; "
                    "a larger one is asked for with -c"
                )
            parts.append(Part(sequence, ids.astype(np.int32), sequence.n_tokens, n_logits))
        for part in parts:
            part.sequence.grow(len(part.tokens))
        return parts

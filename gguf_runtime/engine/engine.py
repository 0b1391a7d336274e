"""The engine: a model, its KV cache, and one step that takes any number of sequences forward."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Hashable, Iterable, Iterator
from collections.abc import Sequence as Items
from contextlib import closing, contextmanager
from typing import Literal
from weakref import WeakSet

import numpy as np

from .. import architectures
from ..architectures import Model, Result
from ..backends import Batch, Chunk, Device, KvTypes
from ..backends.cpu import Cpu
from ..backends.errors import DeviceLost, PlanError
from ..backends.host import HostDevice
from ..kernels.cores import physical_cores, processors
from ..kernels.layout import MOST_BEST
from ..loader import GGUFFile
from .cache import PrefixCache, allocators
from .layer_split import Offload
from .logits import Logits
from .pipeline import Pipeline
from .placement import WHOLE, Placement
from .sequence import Sequence

_A_MOMENT = 5e-5  # seconds in which a thread that waits for the lock gets it
_MANY_LOGITS = 1 << 20  # in all rows, from which on threads find the likeliest sooner than each sampler for itself


class EngineError(Exception):
    """A step, or a setting, that cannot be carried out."""


class ContextFull(EngineError):
    """A sequence would outgrow the context."""


class Engine:
    """Runs one model.

    model: what architectures.load has read of the file, where somebody has; result: what a step gives, logits or
    embeddings; n_ctx: tokens that a sequence may have, 0 for what the model was trained for; n_ubatch: tokens computed
    in one pass, 0 for 512 on the CPU and 2,048 on a GPU, if there is room, and 8,192 where each text has to be in one;
    n_threads: 0 for the number of physical cores; kv_types: how the cache keeps keys and values;
    kv_memory: bytes that it may take in all, 0 for what is free; offload: which layers go to `devices`, None of these
    being all GPUs; device: what runs the rest, "reference" for NumPy in float64. Raises ModelError, PlanError,
    SplitError or ValueError.

    lock: to be held around all that changes sequences, where several threads do. gone: why there are no more steps, if
    there are none. A child made by fork goes on with
    threads of its own, unless a GPU is in use.
    """

    def __init__(
        self,
        file: GGUFFile,
        *,
        result: Result = "logits",
        model: Model | None = None,
        n_ctx: int = 0,
        n_ubatch: int = 0,
        n_threads: int = 0,
        kv_types: KvTypes = KvTypes(),  # noqa: B008
        kv_memory: int = 0,
        offload: Offload = Offload(),  # noqa: B008
        device: Literal["cpu", "reference"] = "cpu",
        devices: Items[Device] | None = None,
    ) -> None:
        self.model = model or architectures.load(file, n_ctx, result)
        self.n_ctx = n_ctx or self.model.n_ctx_train
        if self.model.whole:
            n_ubatch = min(n_ubatch or WHOLE, self.n_ctx)
        self.n_vocab = self.model.n_vocab
        self.n_threads = _threads(n_threads)
        if device == "reference":
            from ..backends.reference import ReferenceDevice

            self._host: HostDevice = ReferenceDevice()
            devices = devices or ()
        else:
            self._host = Cpu(self.n_threads)
        self.placement = Placement(self.model, offload, self._host, devices, self.n_ctx, n_ubatch, kv_types)
        self._pipeline = Pipeline(self.placement.stages)
        self.n_ubatch = self._pipeline.n_batch
        self.pages, self.states, self.windows = allocators(
            self._pipeline.memories, self._pipeline.states, self._pipeline.windows, kv_memory,
            self.placement.bytes_in_ram,
        )  # fmt: skip
        self._cache = PrefixCache(self.pages, self.states, self.windows)
        self.lock = threading.Lock()
        self._waiting: set[int] = set()  # threads that want a turn
        self.gone = ""
        _engines.add(self)

    def new_sequence(self, tokens: Iterable[int] = (), tree: Hashable = None, source: Iterable[int] = ()) -> Sequence:
        """A sequence of which nothing is computed.

        tree: sequences of the same name here use each other's pages; None for one that is by itself, as those with a
        source are: the text that the encoder reads, of a model that has one. Raises ContextFull, EngineError.
        """
        ids = np.array(list(source), np.int64)
        root = None if tree is None or len(ids) else self._cache.root(tree)
        sequence = Sequence(self._cache, tokens, root)
        if encoder := self.placement.encoder:
            self.check(ids)
            if len(ids) > encoder.n_batch:
                raise ContextFull(
                    f"the text has {len(ids)} tokens and the encoder takes {encoder.n_batch}: "
                    "ask for a larger context (-c, or n_ctx in Python), or shorten the text"
                )
            sequence.source = ids.astype(np.int32)
        return sequence

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the lock, in turns with other threads that want to: a lock alone goes to whoever asks first, which is
        mostly who had it last."""
        me = threading.get_ident()
        self._waiting.add(me)
        with self.lock:
            self._waiting.discard(me)
            yield
        if self._waiting:
            time.sleep(_A_MOMENT)

    def check(self, tokens: np.ndarray) -> None:
        """Raises EngineError where a token, i64, is not in the vocabulary."""
        if len(tokens) and (tokens.min() < 0 or tokens.max() >= self.n_vocab):
            raise EngineError(f"token {tokens.min() if tokens.min() < 0 else tokens.max()} is not in the vocabulary")

    def step(self, chunks: Iterable[Chunk]) -> np.ndarray:
        """Append each chunk's tokens to what is computed of its sequence; gives f32[sum of n_logits, n_vocab], in the
        chunks' order, or embeddings of as many tokens; where each text becomes one row, n_logits is to be 1.

        One ragged batch, however many sequences; what exceeds one pass's tokens is run in several, if a text can be
        (Model.whole). Raises
        ContextFull, EngineError for a token that is not in the vocabulary, NoPages; then nothing has changed.
        """
        if self.gone:
            raise EngineError(self.gone)
        chunks = self._checked(list(chunks))
        logits = []
        try:
            for chunk in chunks:
                self._read_source(chunk)
            batches = self._pipeline.batches(chunks)
            with closing(self._pipeline.run(batches)) as results:
                for batch, result in zip(batches, results, strict=True):
                    logits.append(result)
                    for chunk in batch.chunks:
                        chunk.sequence.n_computed += len(chunk.tokens)
        except BaseException as error:  # interrupted: forget what was half done
            for chunk in chunks:
                chunk.sequence.rewind(chunk.position)
            if isinstance(error, DeviceLost):
                self.gone = str(error)
            raise
        return np.concatenate(logits) if len(logits) != 1 else logits[0]

    def look_over(self, rows: np.ndarray, n_best: int, normalizers: bool = False) -> Logits:
        """What a step gave, f32[n, n_vocab], with the n_best likeliest tokens of each row, if it is worth while, and
        with normalizers, if they are wanted."""
        n_best = min(n_best, MOST_BEST, self.n_vocab) if rows.size >= _MANY_LOGITS else 0
        return Logits(
            rows,
            self._host.best(rows, n_best) if n_best else None,
            self._host.normalizers(rows) if normalizers and len(rows) else None,
        )

    @property
    def n_alike(self) -> int:
        """Tokens of one sequence in a step of its own that give, bit for bit, the logits that they give one by one."""
        return self._pipeline.n_alike

    def step_cost(self, n_tokens: int) -> float:
        """About what a step of n tokens costs, in steps of one."""
        return self._pipeline.step_cost(n_tokens)

    def close(self) -> None:
        """End the threads, once the step that runs is done; there can be no other."""
        with self.lock:
            self.gone = self.gone or "the model has been closed"
            self._pipeline.close()
            self.placement.close()

    def after_fork(self) -> None:
        """This process is a child made by fork, where the threads that ran steps are missing, and who held the lock."""
        self.lock, self._waiting = threading.Lock(), set()
        try:
            self.placement.after_fork()
        except PlanError as error:
            self.gone = self.gone or str(error)

    def _read_source(self, chunk: Chunk) -> None:
        """Have the encoder read the source of a chunk's sequence, unless it has."""
        sequence = chunk.sequence
        if self.placement.encoder and not sequence.n_source:
            self.placement.encoder.start(Batch([Chunk(sequence, sequence.source, 0)]))()
            sequence.n_source = len(sequence.source)

    def _checked(self, chunks: list[Chunk]) -> list[Chunk]:
        """The chunks with their positions, and pages for them."""
        if len({id(chunk.sequence) for chunk in chunks}) < len(chunks):
            raise EngineError("a sequence appears twice in one step")
        if self.model.whole and (n := sum(len(chunk.tokens) for chunk in chunks)) > self.n_ubatch:
            raise EngineError(f"{n} tokens are to be computed in one pass, which takes {self.n_ubatch}")
        found = []
        for sequence, tokens, n_logits, _ in chunks:
            ids = np.asarray(tokens, np.int64)
            if not len(ids) or not 0 <= n_logits <= len(ids):
                raise EngineError(f"a chunk of {len(ids)} tokens cannot give logits for {n_logits}")
            self.check(ids)
            if self.placement.encoder and not len(sequence.source):
                raise EngineError("the model's encoder has no text to read")
            if sequence.n_computed + len(ids) > self.n_ctx:
                raise ContextFull(
                    f"{sequence.n_computed} + {len(ids)} tokens do not fit the context of {self.n_ctx}; "
                    "ask for a larger one: -c, or n_ctx in Python"
                )
            found.append(Chunk(sequence, ids.astype(np.int32), n_logits, sequence.n_computed))
        self.pages.require(sum(chunk.sequence.n_missing(len(chunk.tokens)) for chunk in found))
        if self.windows:
            self.windows.require(sum(chunk.sequence.n_missing_windows(len(chunk.tokens)) for chunk in found))
        if self.states:
            self.states.require(sum(chunk.sequence.n_missing_states for chunk in found))
        for chunk in found:
            chunk.sequence.reserve(len(chunk.tokens))
        for chunk in found:
            chunk.sequence.plan_checkpoints(len(chunk.tokens))
        return found


_engines: WeakSet[Engine] = WeakSet()


def _after_fork() -> None:
    for engine in _engines:
        engine.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _threads(wanted: int) -> int:
    """How many threads compute: those wanted, 0 for the number of physical cores; no more than can run at once."""
    most = processors()
    if wanted > most:
        message = f"{wanted} threads would wait for each other on {most} processors: {most} are used"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return min(wanted or physical_cores(), most)

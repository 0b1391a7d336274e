"""One engine, kept loaded and measured on request; compare.py starts one for each side.

worker.py ENGINE MODEL N_THREADS N_CTX: reads tests such as "tg128@8192" from standard input, a line each, and
answers each with tokens per second. ENGINE is ggrun or llama.cpp; the latter runs under a Python that has
llama-cpp-python, so this file imports nothing of ggrun's outside of `Ggrun`.
"""

from __future__ import annotations

import ctypes
import re
import sys
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np


class Test(NamedTuple):
    """kind: pp (a prompt), tg (tokens one by one) or read (the model's bytes from memory, bytes per second)."""

    kind: str
    n_tokens: int
    n_sequences: int
    depth: int

    @classmethod
    def parse(cls, text: str) -> Test:
        """pp512, tg128, tg64x8 (8 sequences together), each with @8192 for that many tokens before; or read."""
        match = re.fullmatch(r"(pp|tg|read)(\d*)(?:x(\d+))?(?:@(\d+))?", text)
        if not match or (match[1] == "read") == bool(match[2]):
            raise ValueError(f"{text!r} is no test; pp512, tg128, tg64x8, tg128@8192 and read are")
        return cls(match[1], int(match[2] or 0), int(match[3] or 1), int(match[4] or 0))


class Engine(Protocol):
    n_vocab: int

    def feed(self, tokens: np.ndarray) -> None:
        """tokens: i64[sequence][n]; append to each of as many sequences, and compute the last one's logits."""

    def cut(self, n_sequences: int, n_tokens: int) -> None:
        """Forget all but the first n_tokens of each sequence."""


class Ggrun:
    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        from gguf_runtime import engine
        from gguf_runtime.loader import open_gguf

        self._chunk, self._file = engine.Chunk, open_gguf(path)
        self._engine = engine.Engine(self._file, n_ctx=n_ctx, n_threads=n_threads)
        self._sequences: list = []
        self.n_vocab = self._engine.n_vocab

    def feed(self, tokens: np.ndarray) -> None:
        while len(self._sequences) < len(tokens):
            self._sequences.append(self._engine.new_sequence())
        self._engine.step([self._chunk(s, row) for s, row in zip(self._sequences, tokens, strict=False)])

    def cut(self, n_sequences: int, n_tokens: int) -> None:
        for sequence in self._sequences[:n_sequences]:
            sequence.rewind(min(n_tokens, sequence.n_computed))

    def read(self) -> float:
        """Bytes per second at which as many threads read the tensors and do nothing else."""
        from concurrent.futures import ThreadPoolExecutor

        n = self._engine.n_threads
        data = [t.data.view(np.uint8).reshape(-1) for t in self._file.tensors.values()]
        data = [a[: a.size // 8 * 8].view(np.int64) for a in data if a.size > 1 << 16]
        shares = [[a[a.size * i // n : a.size * (i + 1) // n] for a in data] for i in range(n)]
        with ThreadPoolExecutor(n) as pool:
            start = perf_counter()
            list(pool.map(lambda share: [np.bitwise_or.reduce(a) for a in share], shares))
            return sum(a.nbytes for a in data) / (perf_counter() - start)


class LlamaCpp:
    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        import llama_cpp as api

        self._api = api
        self._log = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._log, ctypes.c_void_p(0))
        api.llama_backend_init()
        model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = n_ctx, 2048, 512, 32
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = n_threads
        self._context = api.llama_init_from_model(model, params)
        self._memory = api.llama_get_memory(self._context)
        self._n_tokens = [0] * 32
        self.n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def feed(self, tokens: np.ndarray) -> None:
        n = tokens.shape[1]
        for start in range(0, n, 2048):
            end = min(n, start + 2048)
            batch = self._api.llama_batch_init(len(tokens) * (end - start), 0, 1)
            for sequence, row in enumerate(tokens):
                for i in range(start, end):
                    at = batch.n_tokens
                    batch.token[at], batch.pos[at] = int(row[i]), self._n_tokens[sequence] + i
                    batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, sequence, i == n - 1
                    batch.n_tokens += 1
            if self._api.llama_decode(self._context, batch):
                raise RuntimeError("llama_decode failed")
            self._api.llama_synchronize(self._context)
            self._api.llama_batch_free(batch)
        for sequence in range(len(tokens)):
            self._n_tokens[sequence] += n

    def cut(self, n_sequences: int, n_tokens: int) -> None:
        for sequence in range(n_sequences):
            self._api.llama_memory_seq_rm(self._memory, sequence, n_tokens, -1)
            self._n_tokens[sequence] = min(n_tokens, self._n_tokens[sequence])


def measure(engine: Engine, test: Test, state: dict[str, int]) -> float:
    """Tokens per second of one run. state keeps which sequences already have their depth."""
    rng = np.random.default_rng(0)
    n = test.n_sequences
    if state != {"n": n, "depth": test.depth}:
        engine.cut(32, 0)
        if test.depth:
            engine.feed(rng.integers(0, engine.n_vocab, (n, test.depth)))
        state.update(n=n, depth=test.depth)
    tokens = rng.integers(0, engine.n_vocab, (n, test.n_tokens))
    engine.feed(tokens[:, :1])  # wakes the threads
    engine.cut(n, test.depth)
    start = perf_counter()
    for i in range(0, test.n_tokens, test.n_tokens if test.kind == "pp" else 1):
        engine.feed(tokens if test.kind == "pp" else tokens[:, i : i + 1])
    seconds = perf_counter() - start
    engine.cut(n, test.depth)
    return test.n_tokens * n / seconds


def main() -> None:
    name, path, n_threads, n_ctx = sys.argv[1:]
    engine = (Ggrun if name == "ggrun" else LlamaCpp)(path, int(n_threads), int(n_ctx))
    state: dict[str, int] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        test = Test.parse(line.strip())
        reads = test.kind == "read" and isinstance(engine, Ggrun)
        print(engine.read() if reads else measure(engine, test, state), flush=True)


if __name__ == "__main__":
    main()

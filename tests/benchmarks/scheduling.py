"""Many requests at once: python tests/benchmarks/scheduling.py MODEL [TOKENS].

First 32 requests with a common beginning: how many tokens of prompts are computed. Then 8 answers that are being
written when 8 prompts of 4,000 tokens (or TOKENS) come: the time between an answer's tokens, and until all are done,
with prompts in chunks under the scheduler's bound, and whole.
"""

import math
import sys
from time import perf_counter

import numpy as np

from gguf_runtime import LLM
from gguf_runtime.generation import Generation

N_WRITTEN, N_COMMON, N_OWN = 300, 500, 30


def prompts(llm: LLM, n: int, n_tokens: int, seed: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(100, llm.engine.n_vocab, (n, n_tokens)).tolist()


def begin(llm: LLM, prompts: list[list[int]], n: int) -> list[Generation]:
    options = {"max_tokens": n, "temperature": 0, "ignore_eos": True, "lookup": False}
    answers = [llm.stream(prompt, **options) for prompt in prompts]
    for answer in answers:
        answer.begin()
    return answers


def alike(llm: LLM) -> None:
    (start,), scheduler = prompts(llm, 1, N_COMMON, 0), llm.scheduler
    answers = begin(llm, [start + own for own in prompts(llm, 32, N_OWN, 1)], 8)
    while scheduler.step():
        pass
    n, wanted = scheduler.n_computed - 32 * 7, N_COMMON + 32 * N_OWN
    assert all(answer.n_tokens == 8 for answer in answers)
    print(f"32 requests that begin alike: {n} tokens of prompts computed, {n / wanted:.3f} of {N_COMMON} + 32·{N_OWN}")


def mixed(llm: LLM, bound: float, n_tokens: int, seed: int) -> None:
    scheduler = llm.scheduler
    scheduler.step_seconds = bound
    writing = begin(llm, prompts(llm, 8, 20, seed), N_WRITTEN)
    gaps: list[float] = []
    before: list[float] = []

    def steps(times: list[float], while_there: list[Generation]) -> None:
        counts, last = [0] * 8, perf_counter()
        while not all(answer.done for answer in while_there) and scheduler.step():
            now = perf_counter()
            for i, answer in enumerate(writing):
                n, counts[i] = answer.n_tokens - counts[i], answer.n_tokens
                if n and not answer.done:
                    times.append(now - last)
                answer.read()
            last = now
            if times is before and len(times) > 8 * 30:
                return

    steps(before, writing)
    start = perf_counter()
    long = begin(llm, prompts(llm, 8, n_tokens, seed + 1), 32)
    steps(gaps, long + writing)
    for answer in long:
        answer.read()
    seconds = perf_counter() - start
    a, b = (1e3 * np.percentile(times, 99) for times in (before, gaps))
    print(
        f"bound {bound} s: between tokens, 99th percentile {a:.1f} ms before, {b:.1f} ms with "
        f"8 prompts of {n_tokens}; at most {1e3 * max(gaps):.0f} ms; all done in {seconds:.2f} s",
        flush=True,
    )


def main(model: str, n_tokens: int = 4000) -> None:
    with LLM(model, n_ctx=8192) as llm:
        alike(llm)
        for i in range(2):  # in turns
            for bound in (llm.scheduler.step_seconds if i == 0 else 0.1, math.inf):
                mixed(llm, bound, n_tokens, 10 * i + int(bound == math.inf))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))

"""What sampling costs in a step of many answers, by chain of samplers: milliseconds for all rows of logits.

`python -m tests.benchmarks.sampling [--rows 32] [--vocab 128256] [--threads 2]`
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from gguf_runtime.backends.cpu import Cpu
from gguf_runtime.generation import log_probabilities
from gguf_runtime.sampling import Sampler, SamplingParams

_OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
CHAINS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "default": {},
    "penalties": {"repeat_penalty": 1.1, "frequency_penalty": 0.1},
    "penalties on all": {"repeat_penalty": 1.1, "repeat_last_n": -1},
    "logit bias": {"logit_bias": {1000 * i: 1.0 for i in range(20)}},
    "DRY": {"dry_multiplier": 0.8},
    "XTC": {"xtc_probability": 0.5},
    "min_p alone": {**_OFF, "min_p": 0.05},
    "top_p alone": {**_OFF, "top_p": 0.95},
    "temperature alone": _OFF,
    "typical alone": {**_OFF, "typical_p": 0.9},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "mirostat 1": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
}


def rows_as_in_life(n_rows: int, n_vocab: int) -> np.ndarray:
    """Logits of a bulk, and of a few tokens that stand out."""
    rng = np.random.default_rng(0)
    rows = 2.5 * rng.standard_normal((n_rows, n_vocab), np.float32)
    for row in rows:
        row[rng.integers(0, n_vocab, 60)] += 10 + 8 * rng.random(60, np.float32)
    return rows


def least(run: Callable[[], object], tries: int = 9) -> float:
    """Milliseconds."""
    times = []
    for _ in range(tries):
        start = perf_counter()
        run()
        times.append(1000 * (perf_counter() - start))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in ("rows", 32), ("vocab", 128_256), ("threads", 2):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    cpu, rows = Cpu(options.threads), rows_as_in_life(options.rows, options.vocab)
    history = np.random.default_rng(1).integers(0, options.vocab, 500).tolist()
    print(f"{'ms for all rows':18} {'all tokens':>10} {'likeliest':>10} {'of it found by threads':>23}")
    for name, given in CHAINS.items():
        samplers = [Sampler(SamplingParams(seed=i, **given)) for i in range(options.rows)]
        for sampler in samplers:
            sampler.text.extend(history)
        n_best = min(samplers[0].n_best, options.vocab)

        def draw(samplers: list[Sampler] = samplers, n_best: int = n_best) -> None:
            best = cpu.best(rows, n_best) if n_best else [None] * len(rows)
            for sampler, *given in zip(samplers, rows, best, strict=True):
                sampler.sample(*given)

        by_hand = least(lambda samplers=samplers: [s.sample(row) for s, row in zip(samplers, rows, strict=True)])
        found = least(lambda n=n_best: cpu.best(rows, n)) if n_best else 0.0
        print(f"{name:18} {by_hand:10.2f} {least(draw) if n_best else by_hand:10.2f} {found:23.2f}")
    normalizers = cpu.normalizers(rows)
    best = cpu.best(rows, 41)
    told = least(
        lambda: [log_probabilities(row, 5, 20, b, z) for row, b, z in zip(rows, best, normalizers, strict=True)]
    )
    print(f"{'log probabilities':18} {'':10} {told + least(lambda: cpu.normalizers(rows)):10.2f}")
    cpu.close()


if __name__ == "__main__":
    main()

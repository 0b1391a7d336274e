"""Speed by the number of layers on a GPU: python tests/benchmarks/offload.py MODEL PNG [N,...].

A row for each number: tokens per second of a prompt of 512, of 2,048, and of 128 generated; and a plot of them.
"""

import sys
import time
from pathlib import Path

import numpy as np

from gguf_runtime.engine import Chunk, Engine
from gguf_runtime.engine.layer_split import Offload
from gguf_runtime.loader import open_gguf

TESTS = {"pp512": (512, 5), "pp2048": (2048, 5), "tg128": (1, 128)}  # tokens of a step, steps


def main(model: str, plot: str, numbers: str = "") -> None:
    file = open_gguf(model)
    last = int(file.metadata[f"{file.metadata['general.architecture']}.block_count"]) + 1
    counts = [int(n) for n in numbers.split(",")] if numbers else [*range(0, last, 4), last]
    print(f"| -ngl | {' | '.join(TESTS)} |\n|---:|{'---:|' * len(TESTS)}")
    speeds: dict[str, list[float]] = {test: [] for test in TESTS}
    for n in counts:
        engine = Engine(file, n_ctx=4096, offload=Offload(n))
        for test, size in TESTS.items():
            speeds[test].append(_speed(engine, *size))
        print(f"| {n} | {' | '.join(f'{column[-1]:,.1f}' for column in speeds.values())} |", flush=True)
        engine.close()
        del engine
    _draw(plot, Path(model).stem, counts, speeds)


def _speed(engine: Engine, n_tokens: int, n_steps: int) -> float:
    """Tokens per second, by the median of the steps' times; prompts begin anew each time, and stop after a while."""
    sequence, times = engine.new_sequence(), []
    tokens = np.random.default_rng(0).integers(0, engine.n_vocab, n_tokens).tolist()
    for _ in range(n_steps + 1):  # the first one warms up
        start = time.perf_counter()
        engine.step([Chunk(sequence, tokens)])
        times.append(time.perf_counter() - start)
        if n_tokens > 1:
            sequence.rewind(0)
            if sum(times) > 4:
                break
    sequence.release()
    return n_tokens / float(np.median(times[1:] or times))


def _draw(path: str, model: str, counts: list[int], speeds: dict[str, list[float]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, tests in zip(axes, (["pp512", "pp2048"], ["tg128"]), strict=True):
        for test in tests:
            axis.plot(counts, speeds[test], marker="o", markersize=3, label=test)
        axis.set(xlabel="layers on the GPU (-ngl)", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    axes[0].set_ylabel(f"{model}: tokens per second")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])

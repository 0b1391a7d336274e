"""ggrun beside llama.cpp on this machine: the two take turns, and what counts is the ratio within each turn.

    python tests/benchmarks/compare.py -m model.gguf --peer PYTHON pp512 tg128 tg64x8 tg128@8192 read

PYTHON is the interpreter of an environment that has llama-cpp-python; without it, ggrun is measured alone.
--plot FILE draws tokens per second against prompt length, depth and number of sequences (needs matplotlib).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import click
from worker import Test

_WORKER = Path(__file__).with_name("worker.py")
#: What --plot measures: title of the axis → tests.
_CURVES = {
    "prompt, tokens": [f"pp{n}" for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)],
    "generation, tokens in the context": [f"tg16@{n}" for n in (0, 512, 1024, 2048, 4096, 8192)],
    "generation, sequences together": [f"tg16x{n}" for n in (1, 2, 4, 8, 16)],
}


class Side:
    """A worker process."""

    def __init__(self, python: str, engine: str, model: str, n_threads: int, n_ctx: int) -> None:
        command = [python, str(_WORKER), engine, model, str(n_threads), str(n_ctx)]
        self.name = engine
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._answer()

    def run(self, test: str) -> float:
        assert self._process.stdin
        print(test, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"{self.name} ended: see what {_WORKER.name} says when it is run by hand")
        return line


@click.command()
@click.option("-m", "--model", "models", multiple=True, required=True, help="GGUF file; can be repeated.")
@click.option("--peer", help="Python that has llama-cpp-python.")
@click.option("-t", "--threads", default=2, help="Threads of each side.")
@click.option("-r", "--repetitions", default=5, help="Turns.")
@click.option("--plot", help="PNG to draw.")
@click.argument("tests", nargs=-1)
def main(
    models: tuple[str, ...], peer: str | None, threads: int, repetitions: int, plot: str | None, tests: tuple[str, ...]
) -> None:
    wanted = list(tests) or ([] if plot else ["pp512", "tg128"])
    curves = _CURVES if plot else {}
    wanted += [test for curve in curves.values() for test in curve if test not in wanted]
    click.echo("| model | test | ggrun | llama.cpp | ratio | spread |\n|---|---|---:|---:|---:|---|")
    for model in models:
        results = _compare(model, wanted, peer, threads, repetitions)
        if plot:
            _draw(plot, Path(model).stem, curves, results)


def _compare(
    model: str, tests: list[str], peer: str | None, n_threads: int, repetitions: int
) -> dict[str, dict[str, float]]:
    """Test → engine → median tokens per second; prints a row for each test."""
    n_ctx = max(t.n_sequences * (t.depth + t.n_tokens + 8) for t in map(Test.parse, tests)) + 64
    sides = [Side(sys.executable, "ggrun", model, n_threads, n_ctx)]
    if peer:
        sides.append(Side(peer, "llama.cpp", model, n_threads, n_ctx))
    results: dict[str, dict[str, float]] = {}
    for test in tests:
        able = sides[:1] if test == "read" else sides
        for side in able:
            side.run(test)  # not counted: fills the context, warms up
        turns = [[side.run(test) for side in able] for _ in range(repetitions)]
        medians = [statistics.median(column) for column in zip(*turns, strict=True)]
        results[test] = {side.name: speed for side, speed in zip(able, medians, strict=True)}
        ratios = [turn[0] / turn[1] for turn in turns] if len(able) == 2 else []
        click.echo(_row(Path(model).stem, test, medians, ratios))
    for side in sides:
        side.close()
    return results


def _row(model: str, test: str, medians: list[float], ratios: list[float]) -> str:
    if test == "read":
        return f"| {model} | read | {medians[0] / 1e9:.1f} GB/s | | | |"
    cells = [model, test, *(f"{speed:.1f}" for speed in medians)]
    if ratios:
        cells += [f"{statistics.median(ratios):.2f}×", f"{min(ratios):.2f}–{max(ratios):.2f}"]
    return "| " + " | ".join(cells + [""] * (6 - len(cells))) + " |"


def _draw(path: str, model: str, curves: dict[str, list[str]], results: dict[str, dict[str, float]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(13, 3.6), layout="constrained")
    for axis, (label, tests) in zip(axes, curves.items(), strict=True):
        parsed = [Test.parse(test) for test in tests]
        first, last = parsed[0], parsed[-1]
        x = [
            t.depth if last.depth else t.n_sequences if last.n_sequences > first.n_sequences else t.n_tokens
            for t in parsed
        ]
        for engine in results[tests[0]]:
            axis.plot(x, [results[test][engine] for test in tests], marker="o", markersize=3, label=engine)
        axis.set(xlabel=label, ylim=(0, None))
        if not last.depth:
            axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"{model}: tokens per second")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

"""`ggrun bench`: the speed of a model, measured and reported as by llama-bench, to be laid beside it."""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import re
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import click
import numpy as np

from .. import __version__
from ..engine import Chunk, Engine
from ..engine.layer_split import LayerCount
from ..llm import LLM
from .command import LlamaCommand
from .inspect import describe, n_bytes, n_params
from .kinds import cache_type, integer
from .loading import model_path, pass_size, with_experts
from .options import placement_options, verbose_option

_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?")


class _Numbers(click.ParamType):
    """Comma-separated numbers and ranges: 1,8 or 1-4 or 128-512+128 or 1-64*2."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        numbers: list[int] = []
        for part in str(value).split(","):
            match = _RANGE.fullmatch(part)
            if not match:
                self.fail(f"{part!r} is neither a number nor a range such as 1-4, 128-512+128, 1-64*2", param, ctx)
            first, last, sign, by = match.groups()
            numbers += _range(int(first), int(last or first), sign or "+", int(by or 1))
        return numbers


class _LayerCounts(_Numbers):
    """The same, with all and auto."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        return [value] if value in ("all", "auto") else super().convert(value, param, ctx)


def _range(first: int, last: int, sign: str, by: int) -> Iterator[int]:
    while first <= last:
        yield first
        following = first * by if sign == "*" else first + by
        if following <= first:
            return
        first = following


def numbers(*names: str, default: str, help: str) -> Any:
    return click.option(*names, type=_Numbers(), default=default, metavar="N,...", help=help)


class _Test(NamedTuple):
    model_filename: str
    n_threads: int
    n_batch: int
    n_ubatch: int
    n_gpu_layers: LayerCount
    type_k: str
    type_v: str
    n_depth: int
    n_prompt: int
    n_gen: int


@click.command(cls=LlamaCommand, help="Measure the speed of a model, as llama-bench does.")
@click.option("-m", "--model", metavar="FILE", multiple=True, help="GGUF file; can be repeated.")
@numbers("-p", "--n-prompt", default="512", help="Tokens of a prompt; 0: no such test.")
@numbers("-n", "--n-gen", default="128", help="Tokens to generate; 0: no such test.")
@numbers("-d", "--n-depth", default="0", help="Tokens that are in the context before.")
@numbers("-t", "--threads", default="0", help="Threads; 0: physical cores.")
@numbers("-b", "--batch-size", default="2048", help="Tokens per batch.")
@numbers("-ub", "--ubatch-size", default="0", help="Tokens of a batch to compute at once; 0: as the device likes.")
@click.option(
    "-ngl",
    "--n-gpu-layers",
    type=_LayerCounts(),
    default="auto",
    metavar="N,...",
    help="Layers to put on GPUs; or all, or auto: as many as fit.",
)
@placement_options
@cache_type("-ctk", "--cache-type-k", default="f16", help="Type of the cache's keys.")
@cache_type("-ctv", "--cache-type-v", default="f16", help="Type of the cache's values.")
@integer("-r", "--repetitions", at_least=1, default=5, help="How often to measure.")
@click.option("-o", "--output", type=click.Choice(["md", "json"]), default="md", help="A table, or JSON.")
@verbose_option
def command(
    model: tuple[str, ...],
    n_prompt: list[int],
    n_gen: list[int],
    n_depth: list[int],
    threads: list[int],
    batch_size: list[int],
    ubatch_size: list[int],
    n_gpu_layers: list[LayerCount],
    cache_type_k: str,
    cache_type_v: str,
    repetitions: int,
    output: str,
    verbose: bool,
    **placement: Any,
) -> None:
    placement = with_experts(placement)
    sizes = [(n, 0) for n in n_prompt if n] + [(0, n) for n in n_gen if n]
    models = [str(model_path(name)) for name in model or (None,)]
    cache = [cache_type_k], [cache_type_v]
    settings = itertools.product(models, threads, batch_size, ubatch_size, n_gpu_layers, *cache, n_depth)
    tests = [_Test(*setting, *size) for setting in settings for size in sizes]
    if output == "json":
        click.echo(json.dumps([_measure(test, repetitions, placement) for test in tests], indent=2))
        return
    click.echo(_row("model", "size", "params", "backend", "ngl", "threads", "test", "t/s"))
    dashes = "-" * 30, "-" * 9 + ":", "-" * 9 + ":", "-" * 10, "--:", "-" * 6 + ":", "-" * 14 + ":", "-" * 19 + ":"
    click.echo(f"| {' | '.join(dashes)} |")
    for test in tests:
        click.echo(_table_row(_measure(test, repetitions, placement)))


def _measure(test: _Test, repetitions: int, placement: dict[str, Any]) -> dict[str, Any]:
    """Run a test once to warm up and then as often as asked; llama-bench's fields."""
    with LLM(
        test.model_filename,
        n_ctx=test.n_depth + test.n_prompt + test.n_gen,
        n_threads=test.n_threads,
        n_gpu_layers=test.n_gpu_layers,
        n_ubatch=pass_size(test.n_batch, test.n_ubatch),
        type_k=test.type_k,
        type_v=test.type_v,
        **placement,
    ) as llm:
        start = datetime.now(UTC)
        nanoseconds = list(_run(llm.engine, test, repetitions))
        speeds = [1e9 * (test.n_prompt + test.n_gen) / ns for ns in nanoseconds]
        return {
            "build_commit": f"ggrun {__version__}",
            "build_number": 0,
            "cpu_info": _cpu_name(),
            "gpu_info": ", ".join(llm.engine.placement.gpus),
            "backends": "CUDA" if llm.engine.placement.n_on_gpu else "CPU",
            "model_type": describe(llm.file),
            "model_size": n_bytes(llm.file),
            "model_n_params": n_params(llm.file),
            **test._asdict(),
            "n_ubatch": llm.engine.n_ubatch,
            "n_gpu_layers": llm.engine.placement.n_on_gpu,
            "devices": "/".join(dict.fromkeys(llm.engine.placement.devices)),
            "n_threads": llm.engine.n_threads,
            "test_time": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "avg_ns": round(statistics.mean(nanoseconds)),
            "stddev_ns": round(_deviation(nanoseconds)),
            "avg_ts": statistics.mean(speeds),
            "stddev_ts": _deviation(speeds),
            "samples_ns": nanoseconds,
            "samples_ts": speeds,
        }


def _run(engine: Engine, test: _Test, repetitions: int) -> Iterator[int]:
    """Nanoseconds of each repetition. Tokens are random: what they are makes no difference."""
    rng = np.random.default_rng(0)
    sequence = engine.new_sequence()

    def feed(n: int) -> None:
        for start in range(0, n, test.n_batch):
            size = min(test.n_batch, n - start)
            engine.step([Chunk(sequence, rng.integers(0, engine.n_vocab, size).tolist(), 1)])

    def generate(n: int) -> None:
        for token in rng.integers(0, engine.n_vocab, n).tolist():
            engine.step([Chunk(sequence, [token], 1)])

    feed(test.n_prompt)
    generate(min(test.n_gen, 1))
    sequence.rewind(0)
    feed(test.n_depth)
    for _ in range(repetitions):
        start = perf_counter_ns()
        feed(test.n_prompt)
        generate(test.n_gen)
        yield perf_counter_ns() - start
        feed(test.n_depth - sequence.rewind(test.n_depth))


def _cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _deviation(samples: list[Any]) -> float:
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


def _table_row(result: dict[str, Any]) -> str:
    size, params = result["model_size"], result["model_n_params"]
    name = f"pp{result['n_prompt']}" if result["n_prompt"] else f"tg{result['n_gen']}"
    return _row(
        result["model_type"],
        f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB",
        f"{params / 1e9:.2f} B" if params >= 1e9 else f"{params / 1e6:.2f} M",
        result["backends"],
        str(result["n_gpu_layers"]),
        str(result["n_threads"]),
        f"{name} @ d{result['n_depth']}" if result["n_depth"] else name,
        f"{result['avg_ts']:.2f} ± {result['stddev_ts']:.2f}",
    )


def _row(model: str, size: str, params: str, backend: str, ngl: str, threads: str, test: str, speed: str) -> str:
    sizes = f"{model:30} | {size:>10} | {params:>10}"
    return f"| {sizes} | {backend:10} | {ngl:>3} | {threads:>7} | {test:>15} | {speed:>20} |"

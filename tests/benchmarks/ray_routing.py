"""What Ray costs and gives, measured: prompts routed by prefix, or at random as Ray does, and stages in actors.

    python tests/benchmarks/ray_routing.py MODEL [--only routing,stages] [--rounds 5]

Begins a Ray node on this machine. Routing: three replicas of each kind, a CPU each, take rounds by turns:
texts of some groups, each with a beginning in common, in any order, from six clients. Prints one line a figure.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gguf_runtime import LLM  # noqa: E402
from gguf_runtime.engine import Chunk  # noqa: E402
from gguf_runtime.server.protocol import Failed, Output  # noqa: E402
from gguf_runtime.server.ray_engine import RayEngine, Replicas, deploy  # noqa: E402
from tests.ray_nodes import cluster  # noqa: E402

_IDS = 3, 300  # of tokens, in any vocabulary
_GROUPS, _TEXTS, _COMMON, _OWN, _NEW, _CLIENTS = 9, 6, 448, 32, 8, 6


async def routing(path: str, n_rounds: int) -> None:
    from ray.serve._private.request_router import PowerOfTwoChoicesRequestRouter as AtRandom

    settings = {"n_ctx": 1024, "n_threads": 1, "kv_memory": 256 << 20, "n_gpu_layers": 0}
    engines = {}
    for name, router in ("prefix", None), ("random", AtRandom):
        begin = partial(deploy, name, Replicas(3, 3, 1), path, settings, 8, router=router)
        handle = await asyncio.to_thread(begin)
        engines[name] = RayEngine(name, handle, await handle.loaded.remote(), lambda step: None)
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in engines}
    for number in range(-1, n_rounds):  # the first one warms up
        for name, engine in engines.items():
            found = await one_round(engine, number)
            if number >= 0:
                figures[name].append(found)
                print(name, *(f"{figure:.3f}" for figure in found), flush=True)
    for name, rounds in figures.items():
        cached, first, slow = (statistics.median(figure) for figure in zip(*rounds, strict=True))
        print(f"{name}: {cached:.1%} of prompt tokens reused; first token {first:.2f} s median, {slow:.2f} s at 95 %")


async def one_round(engine: RayEngine, number: int) -> tuple[float, float, float]:
    """The part of the prompts' tokens that were reused, and the time to the first token, median and 95 %."""
    rng = np.random.default_rng(number + 1)
    beginnings = rng.integers(*_IDS, (_GROUPS, _COMMON))
    texts = [[*b.tolist(), *rng.integers(*_IDS, _OWN).tolist()] for b in beginnings for _ in range(_TEXTS)]
    random.Random(number).shuffle(texts)
    n_cached, seconds = 0, []

    async def client() -> None:
        nonlocal n_cached
        while texts:
            prompt = texts.pop()
            start, first, done = time.perf_counter(), [], asyncio.Event()

            def receive(output: Output | Failed) -> None:
                nonlocal n_cached
                assert isinstance(output, Output), output
                if output.pieces and not first:  # noqa: B023
                    first.append(time.perf_counter() - start)  # noqa: B023
                if output.ended:
                    n_cached += output.n_cached
                    done.set()  # noqa: B023

            engine.generate(receive, prompt, {"max_tokens": _NEW, "ignore_eos": True, "temperature": 0.0})
            await done.wait()
            seconds.append(first[0])

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    n_tokens = _GROUPS * _TEXTS * (_COMMON + _OWN)
    return n_cached / n_tokens, statistics.median(seconds), sorted(seconds)[int(0.95 * len(seconds))]


def stages(path: str, n_rounds: int) -> None:
    where: dict[str, dict[str, Any]] = {"one process": {}, "2 actors": {"ray_stages": 2}, "3 actors": {"ray_stages": 3}}
    models = {
        name: LLM(path, n_ctx=2048, n_threads=1, kv_memory=128 << 20, n_gpu_layers="auto", **more)
        for name, more in where.items()
    }
    tokens = np.random.default_rng(0).integers(*_IDS, 1024).tolist()
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for number in range(-1, n_rounds):
        for name, llm in models.items():
            sequence, start = llm.engine.new_sequence(), time.perf_counter()
            llm.engine.step([Chunk(sequence, tokens, 1)])
            middle = time.perf_counter()
            for i in range(20):
                llm.engine.step([Chunk(sequence, [i], 1)])
            if number >= 0:
                figures[name].append((len(tokens) / (middle - start), 20 / (time.perf_counter() - middle)))
    for name, rounds in figures.items():
        prompt, new = (statistics.median(figure) for figure in zip(*rounds, strict=True))
        print(f"{name}: pp{len(tokens)} {prompt:.0f} t/s, tg20 {new:.1f} t/s, medians of {n_rounds}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--only", default="routing,stages")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = str(Path(options.model).resolve())
    with cluster(1, n_cpus=6):
        if "stages" in options.only:
            stages(path, options.rounds)
        if "routing" in options.only:
            asyncio.run(routing(path, options.rounds))


if __name__ == "__main__":
    main()

"""Stages on several devices give what one gives; two CPU backends stand for the devices."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gguf_runtime import architectures
from gguf_runtime.backends import Batch, Part
from gguf_runtime.backends.cpu import Cpu, CpuBackend
from gguf_runtime.cache import Sequence
from gguf_runtime.loader import open_gguf
from gguf_runtime.pipeline import Pipeline
from tests.make_model import write_model

N_LAYER = 3
TOKENS = np.random.default_rng(0).integers(0, 318, 150).astype(np.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    path: Path = tmp_path_factory.mktemp("pipeline") / "model.gguf"
    write_model(path, types="Q4_0", n_layer=N_LAYER)
    return architectures.load(open_gguf(path))


def pipeline(model, *cuts: int, sizes: tuple[int, ...] = ()) -> Pipeline:
    """Stages that end before these layers; sizes: tokens of each one's passes."""
    cpu, ends = Cpu(2), [0, *cuts, N_LAYER + 1]
    graphs = [model.graph(first, last) for first, last in zip(ends, ends[1:], strict=False)]
    sizes = sizes or (64,) * len(graphs)
    return Pipeline([CpuBackend(graph, cpu, n, "f16", "f16") for graph, n in zip(graphs, sizes, strict=True)])


def run(pipeline: Pipeline, size: int) -> np.ndarray:
    """Logits of all tokens, in batches of a size."""
    sequence = Sequence(pipeline.pools)
    sequence.grow(len(TOKENS))
    starts = range(0, len(TOKENS), size)
    batches = [Batch([Part(sequence, part := TOKENS[i : i + size], i, len(part))]) for i in starts]
    return np.concatenate(list(pipeline.run(batches)))


@pytest.mark.parametrize("cuts", [(1,), (2,), (3,), (1, 3), (1, 2, 3)])
def test_any_cut_changes_no_bit(model, cuts: tuple[int, ...]) -> None:
    for size in (1, 50, 64):
        np.testing.assert_array_equal(run(pipeline(model, *cuts), size), run(pipeline(model), size))


def test_stages_that_take_fewer_tokens_get_a_batch_in_parts(model) -> None:
    # cut where 16 tokens end, which share the choice of columns that are kept apart (kernels/cpu/apart.py)
    stages = pipeline(model, 1, 3, sizes=(160, 80, 96))
    sequence = Sequence(stages.pools)
    sequence.grow(len(TOKENS))
    batches = stages.batches([Part(sequence, TOKENS, 0, len(TOKENS))])
    assert [batch.n_tokens for batch in batches] == [150]
    np.testing.assert_array_equal(np.concatenate(list(stages.run(batches))), run(pipeline(model, sizes=(80,)), 80))
    stages.close()


class Slow:
    """A stage that only waits, and tells when it worked on what."""

    has_cache, max_logits, n_batch = False, None, 64

    def __init__(self, log: list[tuple[str, int, float]], name: str) -> None:
        self.log, self.name = log, name

    def run(self, batch: Batch, x: np.ndarray | None = None) -> np.ndarray:
        n = batch.parts[0].position
        self.log.append((self.name, n, time.perf_counter()))
        time.sleep(0.02)
        if n < 0:
            raise ValueError("a stage failed")
        self.log.append((self.name + " done", n, time.perf_counter()))
        return np.full((1, 1), n if x is None else x[0, 0])

    def close(self) -> None: ...


def batches(*numbers: int) -> list[Batch]:
    return [Batch([Part(Sequence([]), TOKENS[:1], n, 1)]) for n in numbers]


def test_stages_work_at_the_same_time() -> None:
    log: list[tuple[str, int, float]] = []
    results = list(Pipeline([Slow(log, "a"), Slow(log, "b")]).run(batches(0, 1, 2)))
    assert [int(x[0, 0]) for x in results] == [0, 1, 2]
    when = {(name, n): t for name, n, t in log}
    assert when["a", 1] < when["b done", 0]  # the first stage went on while the second had the first batch
    assert all(when["b", n] >= when["a done", n] for n in range(3))


def test_an_error_in_a_stage_ends_all_and_leaves_the_pipeline_usable() -> None:
    log: list[tuple[str, int, float]] = []
    stages = Pipeline([Slow(log, "a"), Slow(log, "b")])
    with pytest.raises(ValueError, match="a stage failed"):
        list(stages.run(batches(0, -1, 2, 3)))
    n = len(log)
    time.sleep(0.05)
    assert len(log) == n  # nothing runs on
    assert [int(x[0, 0]) for x in stages.run(batches(5, 6))] == [5, 6]
    stages.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ggrun-stage")]

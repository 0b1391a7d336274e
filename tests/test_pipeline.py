"""Stages on several devices give what one gives; two CPU backends stand for the devices."""

from __future__ import annotations

import threading
import time
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_runtime import architectures
from gguf_runtime.backends import Batch, Chunk, KvTypes, PassResult
from gguf_runtime.backends.cpu import Cpu, CpuBackend
from gguf_runtime.backends.reference import ReferenceDevice
from gguf_runtime.engine import Engine
from gguf_runtime.engine.cache import PageAllocator, PrefixCache
from gguf_runtime.engine.layer_split import LayerCount, Offload
from gguf_runtime.engine.pipeline import Pipeline
from gguf_runtime.engine.sequence import Sequence
from gguf_runtime.graph import Graph, join
from gguf_runtime.loader import Tensor, open_gguf
from gguf_runtime.operations import Add, Embed, Linear, SelectRows
from tests.make_model import write_model

N_LAYER = 3
TOKENS = np.random.default_rng(0).integers(0, 318, 150).astype(np.int32)
CPUS = Cpu(2), Cpu(1)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> list[Graph]:
    path: Path = tmp_path_factory.mktemp("pipeline") / "model.gguf"
    write_model(path, types="Q4_0", n_layer=N_LAYER)
    return architectures.load(open_gguf(path)).graph.blocks()


@pytest.fixture(scope="module")
def wanted(blocks: list[Graph]) -> dict[int, np.ndarray]:
    """What one device gives, in batches of so many tokens."""
    return {size: run(pipeline(blocks), size) for size in (1, 50, 64)}


def pipeline(blocks: list[Graph], *cuts: int, sizes: tuple[int, ...] = ()) -> Pipeline:
    """Stages that end before these blocks, on two CPUs in turns; sizes: tokens of each one's passes."""
    ends = [0, *cuts, len(blocks)]
    graphs = [join(blocks[first:last]) for first, last in pairwise(ends)]
    sizes = sizes or (64,) * len(graphs)
    stages = zip(graphs, sizes, cycle(CPUS), strict=False)
    return Pipeline([CpuBackend(graph, cpu, n, KvTypes()) for graph, n, cpu in stages])


def run(pipeline: Pipeline, size: int) -> np.ndarray:
    """Logits of all tokens, in batches of a size."""
    sequence = reserved(pipeline)
    starts = range(0, len(TOKENS), size)
    batches = [Batch([Chunk(sequence, part := TOKENS[i : i + size], len(part), i)]) for i in starts]
    logits = np.concatenate(list(pipeline.run(batches)))
    pipeline.close()
    return logits


@pytest.mark.parametrize("n_threads", [1, 3, 9])
def test_more_threads_than_cores_change_nothing(blocks: list[Graph], wanted: dict[int, np.ndarray], n_threads: int):
    cpu = Cpu(n_threads)  # every order of arrival, and threads that come when all is done
    backend = CpuBackend(join(blocks), cpu, 64, KvTypes())
    for size in (1, 50, 1, 64, 1):
        np.testing.assert_array_equal(run(Pipeline([backend]), size), wanted[size])
    cpu.close()


def reserved(pipeline: Pipeline) -> Sequence:
    """A sequence with pages for all tokens."""
    memories = pipeline.memories
    sequence = Sequence(PrefixCache(PageAllocator(memories, 8)), (), None)
    sequence.reserve(len(TOKENS))
    return sequence


def test_blocks_are_attention_and_feed_forward(blocks: list[Graph]) -> None:
    names = [[tensor.name for tensor in block.tensors] for block in blocks]
    assert len(names) == 2 * N_LAYER + 1
    for i, (attention, feed_forward) in enumerate(zip(names[:-1:2], names[1::2], strict=True)):
        assert all(name.startswith(f"blk.{i}.attn_") for name in attention) and len(attention) == 5
        assert all(name.startswith(f"blk.{i}.ffn_") for name in feed_forward) and len(feed_forward) == 4
    assert names[-1] == ["output_norm.weight", "output.weight"]
    assert [list(block.kv) for block in blocks] == [[0], [], [1], [], [2], [], []]


def test_a_block_ends_only_where_one_sum_is_all_that_is_read_later() -> None:
    def tensor(*shape: int) -> Tensor:
        return Tensor(f"w{shape}", shape, "F32", np.zeros(0, np.uint8))

    g = Graph()
    x = g(Embed(tensor(9, 8)))
    a, b = g(Linear(x, tensor(8, 8))), g(Linear(x, tensor(8, 8)))  # both read x, and are added one after the other
    x = g(Add(g(Add(x, a)), b))
    y = g(Add(x, x))  # and this one is read together with x
    z = g(Add(x, y))
    selected = g(SelectRows(z))
    g(Linear(g(Add(selected, selected)), tensor(9, 8)))
    assert [block.ops[-1].out for block in g.blocks()] == [x, z, g.result]
    assert join(g.blocks()).ops == g.ops


def test_any_cut_changes_no_bit(blocks: list[Graph], wanted: dict[int, np.ndarray]) -> None:
    for n in range(1, len(blocks)):
        np.testing.assert_array_equal(run(pipeline(blocks, n), 50), wanted[50])


@settings(max_examples=12, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 2 * N_LAYER)),
    size=st.sampled_from([1, 50, 64]),
)
def test_any_assignment_of_blocks_changes_no_bit(
    blocks: list[Graph], wanted: dict[int, np.ndarray], cuts: set[int], size: int
) -> None:
    stages = pipeline(blocks, *sorted(cuts))
    np.testing.assert_array_equal(run(stages, size), wanted[size])


def test_a_stage_without_attention_keeps_nothing(blocks: list[Graph]) -> None:
    stages = pipeline(blocks, 1, 2, 5)  # attention; feed-forward; one of each, and attention; the rest
    kept = [stage.memory and list(stage.memory.layout.k_offset) for stage in stages.stages]
    assert kept == [[0], None, [1, 2], None]
    assert stages.memories == [stages.stages[i].memory for i in (0, 2)]


def test_stages_that_take_fewer_tokens_get_a_batch_in_parts(blocks: list[Graph]) -> None:
    # cut where 16 tokens end, which share the choice of columns that are kept apart (kernels/cpu/outliers.py)
    stages = pipeline(blocks, 1, 6, sizes=(160, 80, 96))
    batches = stages.batches([Chunk(reserved(stages), TOKENS, len(TOKENS))])
    assert [batch.n_tokens for batch in batches] == [150]
    found = np.concatenate(list(stages.run(batches)))
    np.testing.assert_array_equal(found, run(pipeline(blocks, sizes=(80,)), 80))
    stages.close()


class Slow:
    """A stage that only waits, and tells when it worked on what."""

    memory, windows, states, max_logits, n_batch, n_alike = None, None, None, None, 64, 1

    def __init__(self, log: list[tuple[str, int, float]], name: str) -> None:
        self.log, self.name = log, name

    def device(self, n_tokens: int) -> str:
        return self.name

    def start(self, batch: Batch, x: np.ndarray | None = None) -> PassResult:
        n = batch.chunks[0].position
        self.log.append((self.name, n, time.perf_counter()))
        time.sleep(0.02)
        if n < 0:
            raise ValueError("a stage failed")
        self.log.append((self.name + " done", n, time.perf_counter()))
        return lambda: np.full((1, 1), n if x is None else x[0, 0])

    def close(self) -> None: ...


def batches(*numbers: int) -> list[Batch]:
    return [Batch([Chunk(reserved(Pipeline([Slow([], "")])), TOKENS[:1], 1, n)]) for n in numbers]


def test_stages_work_at_the_same_time() -> None:
    log: list[tuple[str, int, float]] = []
    results = list(Pipeline([Slow(log, "a"), Slow(log, "b")]).run(batches(0, 1, 2)))
    assert [int(x[0, 0]) for x in results] == [0, 1, 2]
    when = {(name, n): t for name, n, t in log}
    assert when["a", 1] < when["b done", 0]  # the first stage went on while the second had the first batch
    assert all(when["b", n] >= when["a done", n] for n in range(3))


def test_stages_on_one_device_take_turns() -> None:
    log: list[tuple[str, int, float]] = []
    same = Pipeline([Slow(log, "a"), Slow(log, "a")])
    assert [int(x[0, 0]) for x in same.run(batches(0, 1))] == [0, 1]
    assert [n for name, n, _ in log if name == "a"] == [0, 0, 1, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("ggrun-stage")]


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


@pytest.mark.parametrize("layers", [1, 2, "all"])
def test_layers_split_over_any_devices(tmp_path: Path, layers: LayerCount) -> None:
    """Two CPUs, and NumPy as a device, go the way that GPUs go: splitter, placement, pipeline."""
    write_model(path := tmp_path / "model.gguf", types="F32", n_layer=N_LAYER)
    tokens, found = TOKENS[:40].tolist(), []
    for device, others in (
        ("reference", []),
        ("reference", [ReferenceDevice("CPU1")]),
        ("cpu", [Cpu(1, "CPU1")]),
        ("cpu", [Cpu(1, "CPU1"), ReferenceDevice("CPU2")]),
    ):
        engine = Engine(open_gguf(path), device=device, devices=others, offload=Offload(layers), n_threads=1)
        assert bool(others) == bool(engine.placement.n_on_gpu)
        sequence = engine.new_sequence()
        engine.step([Chunk(sequence, tokens[:30], 0)])
        found.append(engine.step([Chunk(sequence, tokens[30:], 10)]))
        engine.close()
    truth = found[0].astype(np.float64)
    for logits, bound in zip(found[1:], (1e-12, 1e-5, 1e-5), strict=True):  # keys and values are f16 on the CPU
        assert ((logits - truth) ** 2).sum() < bound * (truth**2).sum()

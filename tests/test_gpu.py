"""The CUDA backend against float64, against the CPU and against itself; skipped where there is no GPU."""

from __future__ import annotations

import gc
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_runtime.backends.errors import GpuError, PlanError
from gguf_runtime.backends.gpus import gpu_present, open_gpus
from gguf_runtime.backends.pages import KvTypes
from gguf_runtime.engine import Chunk, Engine, placement
from gguf_runtime.engine.layer_split import Offload, SplitError
from gguf_runtime.kernels.cuda.formats import FORMATS, RETILED, tile, tiled_bytes
from gguf_runtime.kernels.cuda.source import source
from gguf_runtime.kernels.layout import KV_TYPES
from gguf_runtime.kernels.tensor_types import BY_NAME
from gguf_runtime.loader import Tensor, open_gguf
from tests.make_model import random_tensor, write_model
from tests.paths import SHARED, needs
from tests.reference import llama_logits

Run = Callable[..., subprocess.CompletedProcess[bytes]]
TEXT = SHARED / "golden" / "perplexity.txt"
TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 318, 90)]


def missing() -> str:
    """Why there is no GPU to test on, or nothing."""
    if not gpu_present():
        return "no NVIDIA driver, or no CuPy"
    try:
        open_gpus()
    except GpuError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a GPU")


def make(path: Path, layers: Any = "all", *, n_ctx: int = 0, n_ubatch: int = 512, ram: bool = False, **options: Any):
    """An engine over a small random model, and the model's weights."""
    weights = write_model(path / "model.gguf", **options)
    return engine(path, layers, n_ctx=n_ctx, n_ubatch=n_ubatch, ram=ram), weights


def engine(path: Path, layers: Any, *, ram: bool = False, moved: Any = (), shares: Any = (), **settings: Any) -> Engine:
    """moved: pattern → device; shares: of several GPUs."""
    offload = Offload(layers, 0, shares, tuple(dict(moved).items()), ram)
    return Engine(open_gguf(path / "model.gguf"), n_threads=2, offload=offload, **settings)


def run(engine: Engine, tokens: list[int], step: int = 0) -> np.ndarray:
    """Logits of all tokens, `step` of them at a time."""
    sequence = engine.new_sequence()
    step = step or len(tokens)
    parts = [tokens[i : i + step] for i in range(0, len(tokens), step)]
    logits = np.concatenate([engine.step([Chunk(sequence, part, len(part))]) for part in parts])
    sequence.release()
    return logits


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(((found - wanted) ** 2).mean()) / wanted.std())


@pytest.mark.parametrize("fmt", sorted(BY_NAME))
def test_every_type(tmp_path: Path, fmt: str) -> None:
    gpu, weights = make(tmp_path, types=fmt, n_embd=512, n_ff=768)
    wanted = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2)
    for step in (0, 1, 7, 13, 30):  # unpacked weights; then products for one token, and for 8, 16 and 32
        found = error(run(gpu, TOKENS, step), wanted)
        assert found < 5e-3, (step, found)


@pytest.mark.parametrize(
    "shape",
    [
        {"n_embd": 96, "n_head": 3, "n_head_kv": 1, "n_ff": 160, "n_vocab": 331, "types": "Q8_0"},
        {"n_embd": 256, "n_head": 4, "n_head_kv": 4, "n_ff": 544, "types": "Q4_0"},
        {"n_embd": 320, "n_head": 4, "n_head_kv": 2, "n_ff": 96, "types": "Q5_1"},  # heads of 80
        {"n_embd": 288, "n_head": 4, "n_head_kv": 1, "n_ff": 96, "types": "F16"},  # heads of 72
        {"n_embd": 1280, "n_head": 20, "n_head_kv": 1, "n_ff": 64, "types": "Q4_1"},  # 20 heads share one
        {"n_embd": 1024, "n_head": 8, "n_head_kv": 2, "n_ff": 256, "types": "Q4_K"},  # heads of 128
        {"n_embd": 512, "n_head": 2, "n_head_kv": 1, "n_ff": 256, "types": "Q6_K"},  # heads of 256
    ],
)
def test_shapes(tmp_path: Path, shape: dict[str, Any]) -> None:
    gpu, weights = make(tmp_path, **shape)
    wanted = llama_logits(weights, TOKENS, n_head=shape["n_head"], n_head_kv=shape["n_head_kv"])
    for step in (0, 1, 11):
        found = error(run(gpu, TOKENS, step), wanted)
        assert found < 5e-3, (step, found)


def test_mixed_types_and_biases(tmp_path: Path) -> None:
    types = {"*attn_q*": "Q4_K", "*attn_k*": "Q5_0", "*attn_v*": "Q6_K", "*ffn_down*": "Q3_K", "*": "Q8_0"}
    make(tmp_path, types=types)
    gpu, weights = make(tmp_path, types=types)
    assert error(run(gpu, TOKENS, 1), llama_logits(weights, TOKENS, n_head=4, n_head_kv=2)) < 5e-3
    rng = np.random.default_rng(1)
    extra = {f"blk.{i}.attn_{x}.bias": rng.normal(size=n) for i in range(2) for x, n in (("q", 256), ("v", 128))}
    gpu, _ = make(tmp_path, types=types, extra=extra)
    cpu = run(engine(tmp_path, 0), TOKENS)
    assert error(run(gpu, TOKENS, 1), cpu) < 0.02 and error(run(gpu, TOKENS), cpu) < 0.02


def test_long_contexts_in_spans(tmp_path: Path) -> None:
    tokens = [int(t) for t in np.random.default_rng(2).integers(0, 318, 3000)]
    gpu, _ = make(tmp_path, types="F16", n_ctx=4096)
    sequence = gpu.new_sequence()
    gpu.step([Chunk(sequence, tokens[:-40], 1)])
    few = np.concatenate([gpu.step([Chunk(sequence, [t])]) for t in tokens[-40:]])
    sequence.rewind(len(tokens) - 40)
    many = gpu.step([Chunk(sequence, tokens[-40:], 40)])
    assert error(few, many) < 2e-3


@pytest.mark.parametrize(("k", "v"), [(k, k) for k in KV_TYPES[1:]] + [("f16", "q8_0"), ("f32", "q4_1")])
@pytest.mark.parametrize("heads", [(8, 2), (2, 2)])
def test_a_quantised_cache_is_as_near_to_the_truth_as_the_cpus(
    tmp_path: Path, k: str, v: str, heads: tuple[int, int]
) -> None:
    sizes = dict(zip(("n_head", "n_head_kv"), heads, strict=True))
    weights = write_model(tmp_path / "model.gguf", types="Q8_0", n_embd=512, n_layer=3, **sizes)
    types = {"kv_types": KvTypes(k, v)}
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, 318, 400)]
    exact = llama_logits(weights, tokens, **sizes)
    # what is f32 in the cache is halves in a GPU's shared memory
    most = (1.15 if k == "f32" else 1.1) * error(run(engine(tmp_path, 0, **types), tokens), exact)
    gpu = engine(tmp_path, "all", **types)
    for step in 0, 70, 9:
        assert error(run(gpu, tokens, step), exact) < most, step
    assert error(run(gpu, tokens[:60], 1), exact[:60]) < most
    some = streamed(engine(tmp_path, 2, **types))
    sequence = some.new_sequence()
    found = some.step([Chunk(sequence, tokens[:150], 150)])
    found = np.concatenate([found, some.step([Chunk(sequence, tokens[150:], 250)])])
    assert error(found, exact) < most


def test_batches_of_several_sequences(tmp_path: Path) -> None:
    gpu, _ = make(tmp_path, types="Q4_K", n_embd=512, n_ubatch=64)
    texts = [TOKENS[:1], TOKENS[10:75], TOKENS[5:20], TOKENS[30:33]]
    alone = [run(gpu, text)[-1] for text in texts]
    chunks = [Chunk(gpu.new_sequence(), text) for text in texts]
    together = gpu.step(chunks)
    assert error(together, np.stack(alone)) < 2e-3
    following = gpu.step([Chunk(chunk.sequence, [7]) for chunk in chunks])
    assert error(following, np.stack([run(gpu, [*text, 7])[-1] for text in texts])) < 2e-3
    assert gpu.step([Chunk(gpu.new_sequence(), TOKENS, 0)]).shape == (0, gpu.n_vocab)


@pytest.mark.parametrize("types", ["Q4_K", "F16"])
def test_any_number_of_tokens(tmp_path: Path, types: str) -> None:
    gpu, weights = make(tmp_path, types=types, n_embd=512, n_ubatch=300)
    tokens = TOKENS * 4
    exact = llama_logits(weights, tokens, n_head=4, n_head_kv=2)
    sequences = [gpu.new_sequence() for _ in range(3)]
    for n in 33, 128, 100, 129, 300, 360, 90, 257, 33:  # what is launched is rounded up, and launched again as a graph
        assert error(run(gpu, tokens[:n]), exact[:n]) < 5e-3, n
        few = gpu.step([Chunk(sequence, tokens[: n // k], 1) for k, sequence in enumerate(sequences, 1)])
        assert error(few, exact[[n // k - 1 for k in (1, 2, 3)]]) < 5e-3, n
        for sequence in sequences:
            sequence.rewind(0)


def streamed(engine: Engine, least: int = 2) -> Engine:
    """The engine, made to stream from `least` tokens on; it must have a stage that can."""
    (stage,) = (stage for stage in engine.placement.stages if hasattr(stage, "least"))
    assert stage.least > 1  # as measured
    stage.least = least
    return engine


@pytest.mark.parametrize("kind", sorted(BY_NAME))
def test_weights_are_laid_out_as_on_the_host(kind: str) -> None:
    from gguf_runtime.backends.cuda import weights
    from gguf_runtime.backends.cuda.upload import Upload

    rng, form = np.random.default_rng(0), FORMATS[kind if kind in FORMATS else "F16"]
    (device,) = open_gpus(0)
    for rows, width in ((32,), 2 * form.step), ((21, 37, 70), form.step + form.columns), ((5,), form.columns):
        tensors = []
        for n in rows:
            data = rng.integers(0, 256, n * width // form.columns * form.n_bytes, np.uint8)
            if kind in RETILED:
                data = random_tensor(rng, kind, n, width).reshape(-1)
            tensors.append(Tensor("w", (n, width), kind, data))
        with Upload(device, tensors) as upload:
            memory = upload(tensors).memory
        found, wanted = (np.zeros(tiled_bytes(form, sum(rows), width), np.uint8) for _ in range(2))
        device.copy(found.ctypes.data, memory.address, found.nbytes)
        device.synchronize()
        tile(form, np.concatenate([weights._blocks(tensor) for tensor in tensors]), wanted)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("types", ["Q4_K", "Q8_0", "BF16", {"*attn_v*": "Q6_K", "*ffn_down*": "Q5_0", "*": "Q4_0"}])
def test_streamed_prompts_are_those_of_layers_that_stay(tmp_path: Path, types: Any) -> None:
    write_model(tmp_path / "model.gguf", types=types, n_layer=5, n_embd=512, n_ff=768)
    plain, some = engine(tmp_path, 5, n_ubatch=512), streamed(engine(tmp_path, 2, n_ubatch=512))
    for texts in [TOKENS], [TOKENS[:50], TOKENS[7:60], TOKENS[40:]]:
        sequences = [(plain.new_sequence(), some.new_sequence()) for _ in texts]
        for part in texts, [text[::-1] * 4 for text in texts], [text[:40] for text in texts]:
            wanted, found = (
                e.step([Chunk(pair[i], text, 3) for pair, text in zip(sequences, part, strict=True)])
                for i, e in enumerate((plain, some))
            )
            np.testing.assert_array_equal(found, wanted)
        streamed(some, 1000)  # what follows is computed on the CPU, from the cache that streaming has filled
        found = some.step([Chunk(pair[1], [5], 1) for pair in sequences])
        assert error(found, plain.step([Chunk(pair[0], [5], 1) for pair in sequences])) < 0.03
        streamed(some)
    some.close()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_tokens_on_cpu_and_bus(tmp_path: Path, n: int) -> None:
    weights = write_model(tmp_path / "model.gguf", types="Q8_0", n_layer=7, n_embd=512, n_ff=768)
    some = streamed(engine(tmp_path, 1), 40)
    (stage,) = (stage for stage in some.placement.stages if hasattr(stage, "least"))
    stage.share(n)
    assert stage.n_shared == n
    exact = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2)
    most = 1.2 * error(run(engine(tmp_path, 0), TOKENS, 1), exact)  # all on the CPU
    for step in (1, 5, 30, 45):  # the last one streams
        assert error(run(some, TOKENS, step), exact) < most, step
    texts = [TOKENS[:40], TOKENS[:53], TOKENS[:7]]
    chunks = [Chunk(some.new_sequence(), text) for text in texts]
    some.step(chunks)
    found = some.step([Chunk(chunk.sequence, [TOKENS[chunk.sequence.n_computed]]) for chunk in chunks])
    assert error(found, exact[[len(text) for text in texts]]) < 2 * most
    some.close()


@pytest.mark.parametrize("ram", [False, True])
@pytest.mark.parametrize("least", [2, 1000])
def test_any_number_of_layers_gives_the_same_text(tmp_path: Path, ram: bool, least: int) -> None:
    write_model(tmp_path / "model.gguf", types="Q8_0", n_layer=3, n_embd=512, n_ff=512)
    texts = []
    for layers in range(5):
        one = engine(tmp_path, layers, n_ubatch=16, ram=ram)
        assert one.placement.n_on_gpu == layers
        if 0 < layers < 3:
            streamed(one, least)
        sequence, tokens = one.new_sequence(), TOKENS[:50]
        text = []
        for _ in range(12):
            tokens = [int(one.step([Chunk(sequence, tokens)])[0].argmax())]
            text += tokens
        texts.append(text)
    assert all(text == texts[0] for text in texts), texts


def test_a_cut_prompt_is_the_same(tmp_path: Path) -> None:
    gpu, _ = make(tmp_path, types="Q4_K", n_embd=512)
    whole = run(gpu, TOKENS)
    cut = engine(tmp_path, "all", n_ubatch=40)
    assert error(run(cut, TOKENS), whole) < 2e-3


@needs(TEXT)
@pytest.mark.parametrize("layers", [15, "all"])
def test_perplexity_is_that_of_exact_arithmetic(smollm2: Path, ggrun: Run, layers: Any) -> None:
    result = ggrun("perplexity", "-m", smollm2, "-f", TEXT, "-c", 512, "-ngl", layers)
    found = re.search(rb"PPL = ([\d.]+)", result.stdout)
    assert found, result.stderr
    assert float(found[1]) == pytest.approx(16.2895, rel=0.003)  # float64; the CPU's 8 bits make it 0.8 % more


def test_a_gpu_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    from gguf_runtime.backends.cuda.launches import Launch

    (device,) = open_gpus(0)
    with pytest.raises(GpuError, match="CUDA0 failed"), device.working():
        device.run([Launch("add_bias", (1,), 1 << 20, ())])  # more threads than a block can have
    with pytest.raises(MemoryError, match="CUDA0 has too little memory"):
        device.allocate(1 << 50)
    gpu, _ = make(tmp_path, types="Q8_0")  # neither has done any harm
    assert np.isfinite(run(gpu, TOKENS)).all()
    with pytest.raises(SplitError, match="layers fit"):
        engine(tmp_path, "all", n_ctx=1 << 34)


@pytest.mark.parametrize("layers", [6, 3])
def test_memory_that_is_taken_was_counted(tmp_path: Path, layers: int) -> None:
    from gguf_runtime.backends.cuda.launches import GpuMemory
    from gguf_runtime.backends.cuda.workspace import workspace_bytes

    write_model(tmp_path / "model.gguf", types="Q4_K", n_layer=6, n_embd=1024, n_ff=4096, n_head=16, n_head_kv=4)
    gc.collect()
    before = {id(x.owner) for x in gc.get_objects() if isinstance(x, GpuMemory)}
    some = engine(tmp_path, layers, n_ctx=8192)
    sequence = some.new_sequence()
    some.step([Chunk(sequence, TOKENS * 20)])
    sequence.reserve(8192 - 20 * len(TOKENS))  # all of the cache
    owners = {id(x.owner): x.owner for x in gc.get_objects() if isinstance(x, GpuMemory)}
    taken = sum(owner.size for i, owner in owners.items() if i not in before)
    placement = some.placement
    here = [block for block, device in zip(placement.blocks, placement.devices, strict=True) if device == "CUDA0"]
    counted = sum(block.weights + block.cache for block in here)
    counted += workspace_bytes(open_gpus(0)[0], [some.model.graph], some.n_ubatch)
    if layers == 3:
        assert placement._split.streams_to
        counted += placement._split.streams_to.streaming
    # not counted: what a step is told, and angles; counted, but not taken here: the output's workspace
    assert 0.75 * counted < taken < counted + (24 << 20), (taken, counted)


ROUNDS = [[TOKENS], [TOKENS[:50], TOKENS[7:60], TOKENS[40:]], [[5], [6], [7]], [TOKENS[::-1] * 2, TOKENS[:3], TOKENS]]


def several(engine: Engine) -> list[np.ndarray]:
    """Logits of several sequences that go on together, with prompts longer than a pass among them."""
    sequences = [engine.new_sequence() for _ in range(3)]
    chunks = [[Chunk(*pair, min(3, len(pair[1]))) for pair in zip(sequences, texts, strict=False)] for texts in ROUNDS]
    return list(map(engine.step, chunks))


@pytest.fixture(params=[0, 1], ids=["twice", "two"])
def two(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, or one that stands for two: opened twice, each time with streams, kernels and memory of its own."""
    import cupy

    from gguf_runtime.backends.cuda.device import CudaDevice
    from gguf_runtime.backends.cuda.gpu import Gpu

    if request.param >= cupy.cuda.runtime.getDeviceCount():
        pytest.skip("there is one GPU")
    gpus = [CudaDevice(0), CudaDevice(request.param)]
    gpus[1].name = "CUDA1"
    monkeypatch.setattr(placement, "gpu_devices", lambda only: list(map(Gpu, gpus)))


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("settings", "n_stages"),
    [
        ({"shares": (1, 1)}, 2),
        ({"shares": (1, 3), "ram": True}, 2),
        ({"moved": {"attn": "CUDA1", "ffn": "CUDA0", "output": "CUDA1"}}, 9),
        ({"moved": {".": "CUDA0", r"\.2\.|[01]\.ffn": "CUDA1"}}, 5),
    ],
)
def test_several_gpus_give_what_one_gives(tmp_path: Path, settings: dict[str, Any], n_stages: int) -> None:
    write_model(tmp_path / "model.gguf", types="Q4_K", n_layer=4, n_embd=512, n_ff=768)
    two = engine(tmp_path, "all", n_ubatch=40, **settings)
    assert set(two.placement.devices) == {"CUDA0", "CUDA1"} and len(two.placement.stages) == n_stages
    one = engine(tmp_path, "all", n_ubatch=40, shares=(1, 0))
    assert set(one.placement.devices) == {"CUDA0"}
    for found, wanted in zip(several(two), several(one), strict=True):
        assert error(found, wanted) < 2e-3
    two.close()


@pytest.mark.usefixtures("two")
def test_gpus_in_turns_take_fewer_tokens_at_once(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf", types="Q8_0", n_layer=4)
    sizes = {}
    for shares, moved in ((1, 0), {}), ((1, 1), {}), ((1, 1), {r"blk\.0\.": "CPU"}):
        some = engine(tmp_path, "all", n_ctx=4096, shares=shares, moved=moved)
        sizes[shares, len(moved)] = [stage.n_batch for stage in some.placement.stages]
        some.close()
    assert sizes == {((1, 0), 0): [2048], ((1, 1), 0): [512, 512], ((1, 1), 1): [2048, 512, 512]}


@pytest.mark.usefixtures("two")
def test_two_gpus_and_the_cpu(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "model.gguf", types="Q8_0", n_layer=4, n_embd=512, n_ff=768)
    exact = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2)
    moved = {r"blk\.[12].ffn": "CPU", r"blk\.3.attn": "CUDA0"}
    some = engine(tmp_path, "all", n_ubatch=16, moved=moved, shares=(1, 1))
    assert set(some.placement.devices) == {"CUDA0", "CUDA1", "CPU"}
    for step in 0, 1, 30:
        assert error(run(some, TOKENS, step), exact) < 0.03
    some.close()


@pytest.mark.parametrize("moved", ["ffn", "attn", r"blk\.[13]\.", r"blk\.1\.ffn|blk\.2\.attn"])
def test_blocks_in_ram(tmp_path: Path, moved: str) -> None:
    weights = write_model(tmp_path / "model.gguf", types="Q8_0", n_layer=4, n_embd=512, n_ff=768)
    exact = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2)
    plain, some = engine(tmp_path, "all"), engine(tmp_path, "all", moved={moved: "CPU"})
    assert set(some.placement.devices) == {"CUDA0", "CPU"}
    streaming = [stage for stage in some.placement.stages if hasattr(stage, "least")]
    assert streaming and all(stage.least > 1 for stage in streaming)  # as measured
    for least in 1 << 30, 2:
        for stage in streaming:
            stage.least = least
        for step in 0, 1, 30:
            assert error(run(some, TOKENS, step), exact) < 0.03
    found, wanted = several(some), several(plain)
    assert max(map(error, found, wanted)) < 0.03  # single tokens are computed on the CPU
    assert error(found[0], wanted[0]) < 2e-3 and error(found[1], wanted[1]) < 2e-3
    some.close()


@pytest.fixture(params=[(750, 64, 64), (800, 163, 164), (890, 99, 100)], ids=["7.5", "8.0", "8.9"])
def older(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The GPU with what one of an older compute capability has: the kernels' code for that, and as much shared memory
    for a block and for a processor (KiB).
    """
    from cupy.cuda import driver

    from gguf_runtime.backends.cuda import device
    from gguf_runtime.backends.cuda.device import CudaDevice
    from gguf_runtime.backends.cuda.gpu import Gpu

    capability, most, of_processor = request.param
    gpu = CudaDevice(0)
    gpu.overlaps = gpu.has_wgmma = False
    gpu.max_shared, gpu.shared_of_processor = most << 10, of_processor << 10
    monkeypatch.setattr(placement, "gpu_devices", lambda only: [Gpu(gpu)])
    monkeypatch.setattr(device, "source", lambda name: source(name).replace("__CUDA_ARCH__", str(capability)))
    yield gpu
    own = driver.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
    for (name, shared), kernel in gpu._kernels.items():
        assert shared + driver.funcGetAttribute(own, kernel.ptr) <= most << 10, name


@pytest.mark.parametrize(
    "shape",
    [
        {"types": "Q4_K", "n_embd": 512, "n_ff": 768},
        {"types": {"*attn_v*": "Q6_K", "*ffn_down*": "Q5_0", "*": "Q4_0"}, "n_embd": 512, "n_ff": 768},
        {"types": "Q8_0", "n_embd": 96, "n_head": 3, "n_head_kv": 1, "n_ff": 160, "n_vocab": 331},
        {"types": "IQ4_XS", "n_embd": 1024, "n_head": 8, "n_head_kv": 2, "n_ff": 256},  # heads of 128
        {"types": "Q5_1", "n_embd": 320, "n_head": 4, "n_head_kv": 2, "n_ff": 96},  # heads of 80
        {"types": "F16", "n_embd": 512, "n_ff": 768},
        {"types": "Q4_1", "n_embd": 384, "n_head": 4, "n_head_kv": 1, "n_ff": 256},  # heads of 96
    ],
    ids=["Q4_K", "mixed", "odd", "128", "80", "F16", "96"],
)
def test_older_gpus(tmp_path: Path, older: Any, shape: dict[str, Any]) -> None:
    if shape["types"] == "F16" and older.max_shared == 64 << 10:
        with pytest.raises(PlanError, match="shared memory"):
            make(tmp_path, **shape)
        return
    gpu, weights = make(tmp_path, **shape)
    wanted = llama_logits(weights, TOKENS, n_head=shape.get("n_head", 4), n_head_kv=shape.get("n_head_kv", 2))
    for step in (0, 1, 7, 13, 30):
        found = error(run(gpu, TOKENS, step), wanted)
        assert found < 5e-3, (step, found)


@pytest.mark.usefixtures("older")
@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q5_1", "iq4_nl", "f32"])
def test_older_gpus_with_a_quantised_cache(tmp_path: Path, kind: str) -> None:
    weights = write_model(tmp_path / "model.gguf", types="Q8_0", n_embd=512, n_layer=3)
    exact = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2)
    types = {"kv_types": KvTypes(kind, kind)}
    most = 1.1 * error(run(engine(tmp_path, 0, **types), TOKENS), exact)
    gpu = engine(tmp_path, "all", **types)
    for step in 0, 9, 1:
        assert error(run(gpu, TOKENS, step), exact) < most, step

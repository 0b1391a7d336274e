"""The engine against a float64 reference, and against itself: a text's logits do not depend on how it was batched."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_runtime.architectures import ModelError
from gguf_runtime.backends.errors import PlanError
from gguf_runtime.engine import Chunk, ContextFull, Engine, EngineError
from gguf_runtime.kernels.cores import processors
from gguf_runtime.kernels.layout import FORMATS, PAGE, ROUNDED
from gguf_runtime.loader import open_gguf
from tests.make_model import write_model
from tests.reference import llama_logits

TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 318, 90)]


#: A sum in another order may round a key or value of the cache to the other neighbour in f16.
TOLERANCE = 1e-3


def make(path: Path, *, n_threads: int = 2, n_ubatch: int = 512, n_ctx: int = 0, **options: Any) -> tuple[Engine, Any]:
    """An engine over a small random model, and the model's weights."""
    weights = write_model(path / "model.gguf", **options)
    return Engine(open_gguf(path / "model.gguf"), n_threads=n_threads, n_ubatch=n_ubatch, n_ctx=n_ctx), weights


def run(engine: Engine, tokens: list[int], n_logits: int | None = None) -> np.ndarray:
    sequence = engine.new_sequence()
    logits = engine.step([Chunk(sequence, tokens, len(tokens) if n_logits is None else n_logits)])
    sequence.release()
    return logits


@pytest.mark.parametrize("tied", [False, True])
def test_float_models_match_the_reference(tmp_path: Path, tied: bool) -> None:
    engine, weights = make(tmp_path, types="F32", tied=tied, n_head=8, n_head_kv=2)
    wanted = llama_logits(weights, TOKENS, n_head=8, n_head_kv=2)
    np.testing.assert_allclose(run(engine, TOKENS), wanted, atol=1e-3 * wanted.std())


#: Types of whole models; the others are each in a model of several types.
KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def mixtures() -> list[dict[str, str]]:
    """Types of a model's matrices, such that every type that no whole model has is in one of the models."""
    rest = sorted(FORMATS - set(KINDS))
    parts = [rest[i : i + len(MATRICES)] for i in range(0, len(rest), len(MATRICES))]
    names = [f"*{name}.weight" for name in MATRICES]
    return [dict(zip(names, part, strict=False)) | {"*": part[0]} for part in parts]


@pytest.mark.parametrize("types", [*KINDS, *mixtures()], ids=lambda x: x if isinstance(x, str) else x["*"])
def test_every_type_matches_the_reference(tmp_path: Path, types: str | dict[str, str]) -> None:
    engine, weights = make(tmp_path, types=types)
    wanted = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2)

    def error(logits: np.ndarray) -> float:
        return np.sqrt(((logits - wanted[: len(logits)]) ** 2).mean()) / wanted.std()

    # activations of 8 bits: about 0.5 % for each product; as much again for each type that many tokens round to bytes
    few, many = error(run(engine, TOKENS[:40])), error(run(engine, TOKENS))
    assert few < 0.03, few
    rounded = bool(ROUNDED & set([types] if isinstance(types, str) else types.values()))
    assert many < (0.045 if rounded else 0.03), many


def test_a_mixed_model_with_odd_widths(tmp_path: Path) -> None:
    types = {"token_embd.weight": "Q8_0", "*attn_v*": "Q5_1", "*ffn_down*": "F16", "*ffn_*": "Q4_1", "*": "Q8_0"}
    options = {"n_embd": 96, "n_head": 3, "n_head_kv": 1, "n_ff": 160, "types": types, "n_vocab": 331}
    engine, weights = make(tmp_path, **options)
    wanted = llama_logits(weights, TOKENS, n_head=3, n_head_kv=1)
    error = np.sqrt(((run(engine, TOKENS) - wanted) ** 2).mean()) / wanted.std()
    assert error < 0.03, error


@pytest.mark.parametrize(
    ("keys", "change"),
    [
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, lambda f: f / 4),
        ({"llama.rope.freq_base": 500000.0}, lambda f: 500000.0 ** (-np.arange(0, 64, 2) / 64)),
    ],
)
def test_rope_scaling(tmp_path: Path, keys: dict[str, Any], change: Any) -> None:
    engine, weights = make(tmp_path, types="F32", **keys)
    freqs = change(10000.0 ** (-np.arange(0, 64, 2) / 64))
    wanted = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2, frequencies=freqs)
    np.testing.assert_allclose(run(engine, TOKENS), wanted, atol=1e-3 * wanted.std())


def test_rope_factors_of_llama_3(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, 32).astype(np.float32)
    engine, weights = make(tmp_path, types="F32", extra={"rope_freqs.weight": factors})
    freqs = 10000.0 ** (-np.arange(0, 64, 2) / 64) / factors
    wanted = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2, frequencies=freqs)
    np.testing.assert_allclose(run(engine, TOKENS), wanted, atol=1e-3 * wanted.std())


def test_yarn(tmp_path: Path) -> None:
    keys = {
        "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 64,
    }  # fmt: skip
    engine, weights = make(tmp_path, types="F32", **keys)
    # Peng et al. 2023, section 3.2: by wavelengths, with alpha 1 and beta 32 rotations over the original context,
    # the ramp's ends rounded outwards to whole dimensions as llama.cpp and transformers do
    freqs = 10000.0 ** (-np.arange(0, 64, 2) / 64)
    ends = [64 * np.log(64 / (turns * 2 * np.pi)) / (2 * np.log(10000.0)) for turns in (32, 1)]
    low, high = max(np.floor(ends[0]), 0), np.ceil(ends[1])
    share = np.clip((np.arange(32) - low) / (high - low), 0, 1)
    freqs = share * freqs / 4 + (1 - share) * freqs
    wanted = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2, frequencies=freqs, magnitude=0.1 * np.log(4) + 1)
    np.testing.assert_allclose(run(engine, TOKENS), wanted, atol=1e-3 * wanted.std())


def test_batching_changes_nothing(tmp_path: Path) -> None:
    engine, _ = make(tmp_path, types="F32")
    whole = run(engine, TOKENS)
    one_by_one = engine.new_sequence()
    singles = np.concatenate([engine.step([Chunk(one_by_one, [t])]) for t in TOKENS])
    np.testing.assert_allclose(singles, whole, atol=TOLERANCE)
    small, _ = make(tmp_path, types="F32", n_ubatch=7)
    np.testing.assert_allclose(run(small, TOKENS), whole, atol=TOLERANCE)
    np.testing.assert_allclose(run(engine, TOKENS, 3), whole[-3:], atol=TOLERANCE)
    assert run(engine, TOKENS, 0).shape == (0, engine.n_vocab)


def test_few_tokens_are_bit_for_bit_those_of_one_by_one(tmp_path: Path) -> None:
    # what is guessed and then verified in one batch must be what would have come without
    for types in ("Q4_K", "Q4_1", "Q8_0", "F16"):
        engine, _ = make(tmp_path, types=types)
        one_by_one, together = engine.new_sequence(), engine.new_sequence()
        for n in (1, 4, 2, 3):
            singles = [engine.step([Chunk(one_by_one, [t])])[0] for t in TOKENS[:n]]
            np.testing.assert_array_equal(engine.step([Chunk(together, TOKENS[:n], n)]), singles)


@pytest.mark.parametrize("n_before", [250, 4 * PAGE - 2, 16382])
def test_and_so_they_are_in_a_long_context(tmp_path: Path, n_before: int) -> None:
    # attention is cut into spans, by the length of the context: also where a span more begins, or all become longer
    engine, _ = make(tmp_path, types="Q8_0", n_ctx=20000, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64)
    text = (TOKENS * 200)[:n_before]
    one_by_one, together = engine.new_sequence(), engine.new_sequence()
    engine.step([Chunk(one_by_one, text), Chunk(together, text)])
    singles = [engine.step([Chunk(one_by_one, [t])])[0] for t in TOKENS[:4]]
    np.testing.assert_array_equal(engine.step([Chunk(together, TOKENS[:4], 4)]), singles)


def test_more_threads_than_can_run_are_not_started(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="1000 threads"):
        engine, _ = make(tmp_path, n_threads=1000)
    assert engine.n_threads == processors()


def test_threads_change_nothing(tmp_path: Path) -> None:
    one, _ = make(tmp_path, types="Q4_0", n_threads=1)
    two, _ = make(tmp_path, types="Q4_0", n_threads=2)
    for _ in range(20):
        np.testing.assert_array_equal(run(two, TOKENS[:9]), run(one, TOKENS[:9]))


def test_ragged_batches_of_several_sequences(tmp_path: Path) -> None:
    engine, _ = make(tmp_path, types="F32", n_ubatch=32)
    texts = [TOKENS[:1], TOKENS[10:75], TOKENS[5:20], TOKENS[30:33]]
    alone = [run(engine, text, 2 if len(text) > 1 else 1) for text in texts]
    chunks = [Chunk(engine.new_sequence(), text, 2 if len(text) > 1 else 1) for text in texts]
    together = engine.step(chunks)
    np.testing.assert_allclose(together, np.concatenate(alone), atol=TOLERANCE)
    # and on: one new token each
    following = engine.step([Chunk(chunk.sequence, [7]) for chunk in chunks])
    for text, logits in zip(texts, following, strict=True):
        np.testing.assert_allclose(logits, run(engine, [*text, 7], 1)[0], atol=TOLERANCE)


def test_truncate_and_release(tmp_path: Path) -> None:
    engine, _ = make(tmp_path, types="F32")
    sequence = engine.new_sequence()
    first = engine.step([Chunk(sequence, TOKENS)])
    sequence.rewind(PAGE + 3)
    again = engine.step([Chunk(sequence, TOKENS[PAGE + 3 :])])
    np.testing.assert_allclose(again, first, atol=TOLERANCE)
    with pytest.raises(ValueError):
        sequence.rewind(1000)
    sequence.release()
    assert sequence.n_computed == 0
    np.testing.assert_allclose(engine.step([Chunk(sequence, TOKENS)]), first, atol=TOLERANCE)


def test_refusals_change_nothing(tmp_path: Path) -> None:
    engine, _ = make(tmp_path, types="F32", n_ctx=100)
    sequence = engine.new_sequence()
    engine.step([Chunk(sequence, TOKENS)])
    for chunks, error in [
        ([Chunk(sequence, [1] * 11)], ContextFull),
        ([Chunk(sequence, [320])], EngineError),
        ([Chunk(sequence, [-1])], EngineError),
        ([Chunk(sequence, [])], EngineError),
        ([Chunk(sequence, [1], 2)], EngineError),
        ([Chunk(sequence, [1]), Chunk(sequence, [2])], EngineError),
    ]:
        with pytest.raises(error):
            engine.step(chunks)
        assert sequence.n_computed == len(TOKENS)
    engine.step([Chunk(sequence, [1] * 10)])


def test_interrupted_steps_leave_the_engine_usable(tmp_path: Path) -> None:
    engine, _ = make(tmp_path, types="Q8_0", n_embd=512, n_layer=4, n_ff=2048, n_ctx=4096)
    import _thread

    wanted = run(engine, TOKENS, 1)
    interrupted = 0
    for i in range(10):
        sequence = engine.new_sequence()
        timer = threading.Timer(0.002 * i, _thread.interrupt_main)
        try:
            timer.start()
            engine.step([Chunk(sequence, TOKENS * 20)])
            timer.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted += 1
            assert sequence.n_computed == 0
        np.testing.assert_array_equal(run(engine, TOKENS, 1), wanted)
    assert interrupted


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": "mamba9"}, "not supported"),
        ({"llama.attention.head_count_kv": 3}, "share"),
        ({"llama.block_count": 3}, "blk.2"),
        ({"llama.feed_forward_length": 511}, "shape"),
        ({"llama.rope.dimension_count": 4096}, "RoPE"),
        ({"llama.rope.scaling.type": "spiral"}, "spiral"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"llama.attention.layer_norm_rms_epsilon": "x"}, "not a sensible number"),
    ],
)
def test_models_that_do_not_fit_together(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(tmp_path, **keys)


def test_a_type_without_kernels_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf", types="F32")
    file = open_gguf(tmp_path / "model.gguf")
    file.tensors["output.weight"] = file.tensors["output.weight"]._replace(type="IQ9_S")
    with pytest.raises(PlanError, match=r"output.weight.*IQ9_S"):
        Engine(file)


@pytest.mark.parametrize("fmt", ["Q8_0", "Q4_1"])
def test_what_many_tokens_leave_in_memory_does_not_reach_few(tmp_path: Path, fmt: str) -> None:
    engine, _ = make(tmp_path, types=fmt, n_embd=320)  # rows that do not fill their last record
    sequence = engine.new_sequence()
    engine.step([Chunk(sequence, TOKENS, 0)])
    wanted = engine.step([Chunk(sequence, TOKENS[:1])])
    for stage in engine.placement.stages:
        for memory, _ in stage._plan._buffers.values():
            if memory.dtype == np.uint8:
                memory[:] = 0xFF  # as floats, no numbers; as quants, -1
    sequence.rewind(len(TOKENS))
    assert np.array_equal(engine.step([Chunk(sequence, TOKENS[:1])]), wanted)

"""What an architecture takes from a file: all of it, or it refuses the file by the name of what it lacks."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguf_runtime import LLM, architectures
from gguf_runtime.architectures import ModelError
from gguf_runtime.engine import Chunk, Engine
from gguf_runtime.loader import GGUFFile, Tensor, open_gguf
from gguf_runtime.operations import Rope, RopeFrequencies
from tests.make_model import add_key, finish, write_model
from tests.paths import SHARED, needs
from tests.reference import llama_logits

KIT = SHARED / "conformance" / "architectures"
TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 318, 40)]
FREQS = 10000.0 ** (-np.arange(0, 64, 2) / 64)
SHORT, LONG = np.linspace(1, 2, 32, dtype=np.float32), np.linspace(1, 30, 32, dtype=np.float32)
FACTORS = {"rope_factors_short.weight": SHORT, "rope_factors_long.weight": LONG}


def opened(path: Path, **options: Any) -> GGUFFile:
    write_model(path / "model.gguf", **options)
    return open_gguf(path / "model.gguf")


def angles(model: architectures.Model) -> RopeFrequencies:
    """By which each layer turns queries and keys."""
    found = {id(op.frequencies): op.frequencies for op in model.graph.ops if isinstance(op, Rope)}
    (only,) = found.values()
    return only


def logits(engine: Engine) -> np.ndarray:
    return engine.step([Chunk(engine.new_sequence(), TOKENS, len(TOKENS))])


@pytest.mark.parametrize(
    ("keys", "extra", "n_ctx", "divisors", "magnitude"),
    [
        ({"factor": 4.0}, {}, 0, 4, 1),  # linear is the format's default
        ({"factor": 4.0, "type": "linear"}, {}, 0, 4, 1),
        ({"factor": 4.0, "type": "none"}, {}, 0, 1, 1),
        ({"factor": 0.0}, {}, 0, 1, 1),
        ({"type": "longrope", "original_context_length": 256}, FACTORS, 256, SHORT, 1),
        ({"type": "longrope", "original_context_length": 256}, FACTORS, 257, LONG, 1),
        ({"type": "longrope", "original_context_length": 256, "attn_factor": 1.5}, FACTORS, 0, LONG, 1.5),
        ({"type": "longrope"}, FACTORS, 0, SHORT, 1),  # the original context is the one trained for
        ({}, FACTORS, 2000, LONG, 1),  # files of Phi 3 name no type
        ({}, {"rope_freqs.weight": LONG}, 0, LONG, 1),
    ],
)
def test_rope_scaling(
    tmp_path: Path, keys: dict[str, Any], extra: dict[str, np.ndarray], n_ctx: int, divisors: Any, magnitude: float
) -> None:
    keys = {f"llama.rope.scaling.{name}": value for name, value in keys.items()}
    rope = angles(architectures.load(opened(tmp_path, extra=extra, **keys), n_ctx))
    np.testing.assert_allclose(rope.frequencies, FREQS / divisors, rtol=1e-6)
    assert rope.magnitude == magnitude


def test_the_old_name_of_the_linear_factor(tmp_path: Path) -> None:
    rope = angles(architectures.load(opened(tmp_path, **{"llama.rope.scale_linear": 2.0})))
    np.testing.assert_allclose(rope.frequencies, FREQS / 2)


@pytest.mark.parametrize(
    ("keys", "extra", "message"),
    [
        ({"rope.scaling.type": "longrope"}, {}, "rope_factors_long"),
        ({"rope.scaling.type": "longrope"}, {"rope_factors_long.weight": LONG}, "rope_factors_short"),
        ({"rope.scaling.type": "dynamic"}, {}, "dynamic"),
        ({"rope.scaling.type": 3}, {}, "3"),
        ({"rope.scaling.factor": -2.0}, {}, "factor"),
        ({"rope.scaling.factor": float("nan")}, {}, "not a sensible number"),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_beta_fast": 0.0}, {}, "beta"),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_ext_factor": 0.5}, {}, "ext_factor"),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_log_multiplier": 0.1}, {}, "yarn_log_multiplier"),
        ({"rope.freq_base": 0.0}, {}, "base"),
        ({"block_count": (1 << 31) - 1}, {}, "2147483647 layers"),
        ({"rope.dimension_count": (1 << 31) - 2, "attention.key_length": (1 << 31) - 1}, {}, "2147483646 dimensions"),
        ({"rope.freq_base_swa": 1e4}, {}, "freq_base_swa"),
        ({}, {"rope_freqs.weight": np.zeros(32)}, "damaged"),
        ({}, {**FACTORS, "rope_freqs.weight": LONG}, "rope_freqs.weight"),
        ({"attention.layer_norm_rms_epsilon": -1.0}, {}, "not a sensible number"),
        ({"logit_scale": 8.0}, {}, "logit_scale"),
        ({"embedding_scale": 12.0}, {}, "embedding_scale"),
        ({"residual_scale": 0.22}, {}, "residual_scale"),
        ({"final_logit_softcapping": 30.0}, {}, "softcapping"),
        ({"attn_logit_softcapping": 30.0}, {}, "softcapping"),
        ({"attention.temperature_scale": 0.1}, {}, "temperature"),
        ({"swin_norm": True}, {}, "swin_norm"),
        ({"expert_used_count": 2}, {}, "expert_used_count"),
        ({"nextn_predict_layers": 2}, {}, "nextn"),
        ({}, {"blk.1.attn_q_norm.weight": np.ones(64)}, "blk.1.attn_q_norm.weight"),
        ({}, {"blk.2.ffn_norm.weight": np.ones(256)}, "blk.2.ffn_norm.weight"),
        ({}, {"v.patch_embd.weight": np.ones((4, 4))}, "v.patch_embd.weight"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    tmp_path: Path, keys: dict[str, Any], extra: dict[str, np.ndarray], message: str
) -> None:
    file = opened(tmp_path, extra=extra, **{f"llama.{name}": value for name, value in keys.items()})
    with pytest.raises(ModelError, match=message):
        architectures.load(file)


def test_what_changes_nothing_is_taken(tmp_path: Path) -> None:
    keys = {
        "tensor_data_layout": "Meta AI original pth", "expert_count": 0, "expert_used_count": 0, "logit_scale": 1.0,
        "attention.causal": True, "attention.sliding_window": 0, "attention.layer_norm_epsilon": 1e-5,
        "rope.scaling.finetuned": True, "rope.scaling.original_context_length": 64, "swin_norm": False,
    }  # fmt: skip
    extra = {"blk.0.attn_rot_embd": np.ones(32), "layers.1.attention.inner_attention.rope.freqs": np.ones(32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        architectures.load(opened(tmp_path, extra=extra, **{f"llama.{name}": value for name, value in keys.items()}))
    with pytest.warns(UserWarning, match=r"llama\.colour is not known"):
        architectures.load(opened(tmp_path, **{"llama.colour": "blue"}))


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    extra = {"blk.1.nextn.eh_proj.weight": np.ones((4, 4))}
    model = architectures.load(opened(tmp_path, n_layer=2, extra=extra, **{"llama.nextn_predict_layers": 1}))
    assert model.n_layer == 1


def test_a_sliding_window_needs_a_context_that_fits_it(tmp_path: Path) -> None:
    file = opened(tmp_path, **{"llama.attention.sliding_window": 512})
    architectures.load(file, n_ctx=512)
    for n_ctx in (0, 513):
        with pytest.raises(ModelError, match="512 with -c"):
            architectures.load(file, n_ctx)


def test_values_by_layer(tmp_path: Path) -> None:
    heads, widths = [2, 4, 1], [512, 96, 256]
    keys = {"llama.attention.head_count_kv": heads, "llama.feed_forward_length": widths}
    path = tmp_path / "model.gguf"
    weights = write_model(path, types="F32", n_layer=3, n_head_kv=heads, n_ff=widths, **keys)
    found = logits(Engine(open_gguf(path), n_threads=2, n_ctx=256))
    wanted = llama_logits(weights, TOKENS, n_head=4, n_head_kv=heads)
    np.testing.assert_allclose(found, wanted, atol=1e-3 * wanted.std())
    for changed in ({"llama.feed_forward_length": [512, 96]}, {"llama.feed_forward_length": [512.5, 96.0, 1.0]}):
        write_model(path, n_layer=3, n_head_kv=heads, n_ff=widths, **{**keys, **changed})
        with pytest.raises(ModelError, match="feed_forward_length"):
            architectures.load(open_gguf(path))


@pytest.mark.parametrize("shape", [(1, 256), (256, 1), (1, 1, 256)])
def test_vectors_with_dimensions_of_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = opened(tmp_path)
    for name, tensor in file.tensors.items():
        if len(tensor.shape) == 1:
            file.tensors[name] = tensor._replace(shape=shape)
    graph = architectures.load(file).graph
    assert {tensor.shape for tensor in graph.tensors if "norm" in tensor.name} == {(256,)}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("type_name", ["F32", "Q4_1", "Q6_K"])
def test_rows_that_are_no_tokens_are_never_drawn(tmp_path: Path, tied: bool, type_name: str) -> None:
    path = tmp_path / "model.gguf"
    weights = write_model(path, types=type_name, tied=tied, n_rows=384)
    last = weights["token_embd.weight" if tied else "output.weight"]
    with LLM(path, n_ctx=256, n_threads=2) as llm:
        engine = llm.engine
        assert engine.n_vocab == llm.tokenizer.n_vocab == 320
        found = logits(engine)
        assert found.shape == (len(TOKENS), 320)
        wanted = llama_logits(weights, TOKENS, n_head=4, n_head_kv=2)
        assert wanted.shape == (len(TOKENS), len(last)) and wanted.argmax(axis=1).max() >= 320
        error = np.sqrt(((found - wanted[:, :320]) ** 2).mean()) / wanted.std()
        assert error < (1e-3 if type_name == "F32" else 0.03)
        for options in ({"temperature": 0}, {"temperature": 50.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}):
            for constraint in ({}, {"regex": "[a-z ]{200}"}):
                answer = llm.stream([1, 2, 3], max_tokens=60, ignore_eos=True, **options, **constraint)
                list(answer)
                assert answer.tokens and max(answer.tokens) < 320


def test_fewer_rows_than_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="token_embd.*320 rows"):
        architectures.load(opened(tmp_path, n_rows=319))


def kit(name: str, path: Path, changes: dict[str, Any], scales: dict[str, float]) -> None:
    """A model of the kit as one of architecture llama, with other keys, and tensors times a number, by their names."""
    spec = importlib.util.spec_from_file_location("make_arch_model", KIT / "make_arch_model.py")
    assert spec and spec.loader
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    path.write_bytes(maker.make(maker.load(KIT / "skeletons.json"), name))
    file = open_gguf(path, mmap=False)
    arch = file.metadata["general.architecture"]
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in file.metadata.items():
        if key != "general.architecture":
            value = value if isinstance(value, str | int | float) else list(value)
            add_key(writer, key.replace(f"{arch}.", "llama."), changes.get(key.removeprefix(f"{arch}."), value))
    for tensor in file.tensors.values():
        factor = next((scale for part, scale in scales.items() if part in tensor.name), 1.0)
        writer.add_tensor(tensor.name, values(tensor) * np.float32(factor))
    finish(writer)


def values(tensor: Tensor) -> np.ndarray:
    return tensor.data.view(np.float32).reshape(tensor.shape)


@needs(KIT)
def test_longrope_as_llama_cpp_has_it(tmp_path: Path) -> None:
    """MiniCPM is a Llama with three scales, which may as well be in the weights."""
    path = tmp_path / "minicpm.gguf"
    without = {"embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0}
    scales = {"token_embd": 3.0, "attn_output": 0.7, "ffn_down": 0.7, "output_norm": 0.5 / 3}  # the embedding is tied
    kit("minicpm-longrope", path, without, scales)
    record = np.load(KIT / "expected" / "minicpm-longrope.npz")
    with LLM(path, n_threads=2) as llm:
        found = llm.logits(record["tokens"].tolist())[record["positions"]].astype(np.float64)
    truth = record["logits"].astype(np.float64)
    assert ((truth - found) ** 2).sum() / (truth**2).sum() < 1e-5

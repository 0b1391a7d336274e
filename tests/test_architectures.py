"""Decoders against llama.cpp's record, one of each kind; what the pieces promise, without it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguf_runtime import architectures
from gguf_runtime.architectures import FAMILIES, ModelError
from gguf_runtime.backends.reference.selection import greatest
from gguf_runtime.graph import Graph
from gguf_runtime.loader import Tensor, open_gguf
from gguf_runtime.operations import Activate, Attention, BestKeys, Combine, Embed, Linear, Mul, Route, Slice
from tests import kit
from tests.make_model import finish
from tests.paths import needs

#: One of each kind, and how far from llama.cpp's logits it may be; GELU is read from a table of halves there.
EXACT, GELU = 1e-9, 1e-6
KINDS = {
    "llama4": EXACT,  # chunks, layers without positions, experts whose input is weighted
    "gemma2-27b": GELU,  # norms before and after, windows, soft caps
    "gemma3n": GELU,  # streams, per-layer embeddings, keys of earlier layers
    "gemma4-moe": GELU,  # heads that differ by layer, experts beside a feed-forward
    "command-r-plus": EXACT,  # side by side, a weight for each head's norm
    "phi3-longrope": EXACT,  # fused matrices, long factors
    "mpt": GELU,  # ALiBi, clamped
    "gpt2": GELU,  # learned positions
    "olmo3": EXACT,  # norms after, windows, YaRN in some layers
    "granite": EXACT,  # scales
    "deci": EXACT,  # layers without attention
    "gpt-oss": EXACT,  # sinks, biases of experts
    "deepseek2": EXACT,  # latent attention, experts by groups
    "deepseek2-old": EXACT,
    "glm-dsa": EXACT,  # keys that an indexer finds
    "grovemoe": EXACT,  # experts that share smaller ones
    "step35": EXACT,  # gates, clamps
    "nanbeige": EXACT,  # layers that a text passes twice
    "hy_v4": EXACT,  # hyper-connections
    "deepseek4": EXACT,  # summaries of earlier tokens, experts by token
    "hunyuan_vl": EXACT,  # axes of positions
}


@needs(kit.KIT)
@pytest.mark.parametrize("name", KINDS)
def test_logits_as_in_llama_cpp_however_a_text_is_cut(name: str, tmp_path: Path) -> None:
    record, model = kit.record(name), kit.load(name, tmp_path)
    for step in 96, 7:
        logits = kit.run(model.graph, record["tokens"], step)
        assert kit.nmse(record["logits"], logits[record["positions"]]) < KINDS[name]


@needs(kit.KIT)
@pytest.mark.parametrize("name", ["dream", "llada-moe"])
def test_diffusion_models_see_the_whole_text(name: str, tmp_path: Path) -> None:
    record, model = kit.record(name), kit.load(name, tmp_path)
    logits = kit.run(model.graph, record["tokens"], 96)
    assert not model.causal
    assert kit.nmse(record["logits"], logits[record["positions"]]) < EXACT


def test_each_architecture_has_a_function() -> None:
    for name, module in FAMILIES.items():
        found = importlib.import_module(f"gguf_runtime.architectures.{module}")
        assert callable(getattr(found, name.replace("-", "_"))), name


# latent attention: keys and values that are made of a latent are those of each head

_N, _HEADS, _RANK, _NOPE, _ROPE, _V = 32, 2, 16, 8, 8, 12


def _latent_model(path: Path, absorbed: bool) -> architectures.Model:
    """One layer, with the matrix that makes keys and values of each head, or with its two parts."""
    rng = np.random.default_rng(3)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    kv_b = matrix(_HEADS * (_NOPE + _V), _RANK)
    tensors = {
        "token_embd.weight": matrix(50, _N),
        "output_norm.weight": np.ones(_N, np.float32),
        "blk.0.attn_norm.weight": np.ones(_N, np.float32),
        "blk.0.attn_q.weight": matrix(_HEADS * (_NOPE + _ROPE), _N),
        "blk.0.attn_kv_a_mqa.weight": matrix(_RANK + _ROPE, _N),
        "blk.0.attn_kv_a_norm.weight": np.ones(_RANK, np.float32),
        "blk.0.attn_output.weight": matrix(_N, _HEADS * _V),
        "blk.0.ffn_norm.weight": np.ones(_N, np.float32),
        "blk.0.ffn_gate.weight": matrix(_N, _N),
        "blk.0.ffn_up.weight": matrix(_N, _N),
        "blk.0.ffn_down.weight": matrix(_N, _N),
    }
    keys = {
        "attention.head_count": _HEADS,
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": _RANK,
        "block_count": 1,
        "context_length": 64,
        "embedding_length": _N,
        "feed_forward_length": _N,
        "rope.dimension_count": _ROPE,
    }
    if absorbed:
        of_heads = kv_b.reshape(_HEADS, _NOPE + _V, _RANK)
        tensors["blk.0.attn_k_b.weight"] = np.ascontiguousarray(of_heads[:, :_NOPE].transpose(0, 2, 1))
        tensors["blk.0.attn_v_b.weight"] = np.ascontiguousarray(of_heads[:, _NOPE:])
        keys |= {"attention.key_length_mla": _NOPE + _ROPE, "attention.value_length_mla": _V}
    else:
        tensors["blk.0.attn_kv_b.weight"] = kv_b
        keys |= {"attention.key_length": _NOPE + _ROPE, "attention.value_length": _V}
    writer = gguf.GGUFWriter(path, "deepseek2")
    writer.add_float32("deepseek2.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in keys.items():
        writer.add_uint32(f"deepseek2.{key}", value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    finish(writer)
    return architectures.load(open_gguf(path))


def test_attention_of_latents_is_attention_of_the_heads_made_of_them(tmp_path: Path) -> None:
    tokens = np.random.default_rng(4).integers(0, 50, 30)
    absorbed = _latent_model(tmp_path / "new.gguf", absorbed=True).graph
    heads = _latent_model(tmp_path / "old.gguf", absorbed=False).graph
    truth = kit.run(heads, tokens, 30)
    assert absorbed.kv[0].n_heads == 1 and heads.kv[0].n_heads == _HEADS
    for step in 30, 4:
        assert np.allclose(kit.run(absorbed, tokens, step), truth, rtol=1e-5, atol=1e-6)


def test_a_missing_tensor_is_said(tmp_path: Path) -> None:
    path = tmp_path / "poor.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    for key in "attention.head_count", "block_count", "context_length", "embedding_length":
        writer.add_uint32(f"gpt2.{key}", 1)
    writer.add_tensor("token_embd.weight", np.ones((4, 1), np.float32))
    finish(writer)
    with pytest.raises(ModelError, match="position_embd.weight is missing"):
        architectures.load(open_gguf(path))


@needs(kit.KIT)
@pytest.mark.parametrize("name", ["llama", "qwen3moe", "phi3-longrope"])
def test_factors_of_matrices_and_experts(name: str, tmp_path: Path) -> None:
    """As files with NVFP4 have them; activations' factors, which have no part, too. The matrices are fused in phi3."""
    record, path = kit.record(name), kit.file(name, tmp_path)
    wanted = kit.run(architectures.load(open_gguf(path)).graph, record["tokens"], 96)
    scaled = re.compile(r".*(attn_(q|k|v|qkv|output)|ffn_(gate|up|down)(_exps)?|^output)\.weight")
    with open_gguf(path) as file:
        architecture = file.metadata["general.architecture"]
        writer = gguf.GGUFWriter(tmp_path / "scaled.gguf", architecture)
        for key, field in gguf.GGUFReader(path).fields.items():
            if not key.startswith("GGUF.") and key != "general.architecture":
                writer.add_key_value(key, field.contents(), field.types[0], field.types[-1])
        for tensor in file.tensors.values():
            values = tensor.data.view(np.float32).reshape(tensor.shape)
            if scaled.match(tensor.name):
                n = tensor.shape[0] if len(tensor.shape) == 3 else 1
                factors = (2.0 ** (np.arange(n) % 5 - 3)).astype(np.float32)
                values = values / factors.reshape(-1, *[1] * (len(tensor.shape) - 1))
                writer.add_tensor(tensor.name.replace("weight", "scale"), factors)
                writer.add_tensor(tensor.name.replace("weight", "input_scale"), factors)
            writer.add_tensor(tensor.name, values)
    finish(writer)
    found = kit.run(architectures.load(open_gguf(tmp_path / "scaled.gguf")).graph, record["tokens"], 96)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@needs(kit.KIT)
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt2", {"attention.layer_norm_rms_epsilon": 1e-3}),  # of the other kind of norm
        ("qwen3", {"pooling_type": 0xFFFFFFFF, "attention.max_alibi_bias": 0.0}),
    ],
)
def test_what_llama_cpp_writes_when_it_saves_a_model(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    record, model = kit.record(name), kit.load(name, tmp_path, changes=changes)
    logits = kit.run(model.graph, record["tokens"], 96)
    assert not model.pooling and kit.nmse(record["logits"], logits[record["positions"]]) < GELU


# operations, by hand


def _tensor(name: str, values: np.ndarray) -> Tensor:
    return Tensor(name, values.shape, "F32", values.astype(np.float32).reshape(-1).view(np.uint8))


def _sparse_graph(n: int, dense: bool) -> Graph:
    """Attention to the n best keys, or to all: rows of a table are queries, keys, values and an indexer's weights."""
    rng = np.random.default_rng(5)
    graph = Graph()
    x = graph(Embed(_tensor("table", rng.normal(size=(40, 16)))))
    q, k, v, weights = (graph(Slice(x, first, last)) for first, last in ((0, 4), (4, 8), (8, 13), (13, 14)))
    keys = None if dense else graph(BestKeys(q, k, weights, 1, n))
    graph(Attention(q, k, v, 0, 1, 5, 1.0, keys=keys))
    return graph


def test_attention_to_as_many_keys_as_there_are_is_attention_to_all() -> None:
    tokens = np.random.default_rng(6).integers(0, 40, 20)
    truth = kit.run(_sparse_graph(20, dense=True), tokens, 20)
    for step in 20, 3:
        assert np.allclose(kit.run(_sparse_graph(20, dense=False), tokens, step), truth, rtol=1e-6)
    few = kit.run(_sparse_graph(5, dense=False), tokens, 20)
    assert np.allclose(few[:5], truth[:5], rtol=1e-6) and not np.allclose(few[5:], truth[5:], rtol=1e-2)


def test_the_greatest_scores_are_chosen() -> None:
    rng = np.random.default_rng(7)
    for n, size in (1, 1), (1, 9), (5, 5), (5, 40), (16, 40), (40, 7):
        scores = rng.integers(-3, 3, size).astype(float)
        chosen = greatest(scores, n)
        assert len(set(chosen)) == len(chosen) == min(n, size)
        assert sorted(scores[chosen], reverse=True) == sorted(scores, reverse=True)[: len(chosen)]


def test_neighbours_that_share_an_expert_are_chosen_apart() -> None:
    graph = Graph()
    logits = graph(Embed(_tensor("table", np.array([[0.0, 3.0, 1.0, 2.0, -1.0, 0.5]]))))
    graph(Route(logits, 3, share=2))
    used, weights = kit.run(graph, np.zeros(1, np.int32), 1).reshape(3, 2).T
    # logits 3, 2 and 1 win: of experts 0, 1 and 1, with the weights of the first two of all
    p = np.exp([0.0, 3.0, 3.0])
    assert used.tolist() == [0, 1, 1] and np.allclose(weights, p / p.sum())


def test_a_sum_without_weights() -> None:
    graph = Graph()
    x = graph(Embed(_tensor("table", np.arange(8.0).reshape(1, 8))))
    gate = graph(Activate(graph(Linear(x, _tensor("w", np.eye(8)), heads=4)), "relu"))
    graph(Combine(graph(Mul(gate, gate)), None))
    assert kit.run(graph, np.zeros(1, np.int32), 1).tolist() == [[0 + 4 + 16 + 36, 1 + 9 + 25 + 49]]

"""Models with states, encoders, and an encoder with a decoder, against llama.cpp's record; recurrences alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_runtime.architectures import ModelError, Result
from gguf_runtime.backends import Batch, Chunk
from gguf_runtime.backends.errors import PlanError
from gguf_runtime.backends.reference import ReferenceBackend
from gguf_runtime.graph import Graph
from gguf_runtime.loader import Tensor
from gguf_runtime.operations import Embed, EmbedNgrams, Recurrence, Slice, Value, View
from tests import kit
from tests.paths import needs

#: One of each kind of state.
STATES = ["lfm2moe", "mamba-falcon", "mamba2", "nemotron_h_moe", "plamo2", "qwen3next", "qwen35", "rwkv6", "rwkv7",
          "rwkv6qwen2", "minimax-01", "kimi-linear", "bailingmoe3", "kimi-k3", "glm5-next", "qwen4exp"]  # fmt: skip
ENCODERS = ["bert", "bert-rank", "nomic-bert-moe", "jina-bert-v2-code", "modern-bert", "neo-bert", "eurobert",
            "gemma-embedding", "t5encoder"]  # fmt: skip
#: llama.cpp reads GELU from a table of halves, which an encoder's norms make more of than a decoder's.
LIMIT, GELU_LIMIT = 1e-9, 1e-5


@needs(kit.KIT)
@pytest.mark.parametrize("name", STATES)
def test_states_as_in_llama_cpp_however_a_text_is_cut(name: str, tmp_path: Path) -> None:
    record, model = kit.record(name), kit.load(name, tmp_path)
    for step in 96, 7:
        logits = kit.run(model.graph, record["tokens"], step)
        assert kit.nmse(record["logits"], logits[record["positions"]]) < LIMIT


@needs(kit.KIT)
@pytest.mark.parametrize("name", ENCODERS)
def test_embeddings_and_pooling_as_in_llama_cpp(name: str, tmp_path: Path) -> None:
    record, model = kit.record(name), kit.load(name, tmp_path)
    rows = kit.run(model.graph, record["tokens"], 96)
    assert not model.causal
    assert kit.nmse(record["embeddings"], rows[record["positions"]]) < GELU_LIMIT
    if "pooled" in record:
        assert model.pooling
        pooled = kit.run(kit.load(name, tmp_path, model.pooling).graph, record["tokens"], 96)
        assert kit.nmse(record["pooled"], pooled) < GELU_LIMIT


@needs(kit.KIT)
def test_the_kind_of_norm_is_the_architectures(tmp_path: Path) -> None:
    """Files of ModernBERT have the other kind's epsilon too."""
    record, keys = kit.record("modern-bert"), {"attention.layer_norm_rms_epsilon": 1e-5}
    rows = kit.run(kit.load("modern-bert", tmp_path, changes=keys).graph, record["tokens"], 96)
    assert kit.nmse(record["embeddings"], rows[record["positions"]]) < GELU_LIMIT


@needs(kit.KIT)
@pytest.mark.parametrize(("name", "limit"), [("t5", LIMIT), ("flan-t5", GELU_LIMIT)])
def test_a_decoder_looks_at_what_its_encoder_made(name: str, limit: float, tmp_path: Path) -> None:
    record, model = kit.record(name), kit.load(name, tmp_path)
    for step in 48, 5:
        logits = kit.run(model.graph, record["decoder_tokens"], step, record["tokens"].astype(np.int32))
        assert kit.nmse(record["logits"], logits[record["positions"]]) < limit


#: Models of the kit with other values of keys, whose results were recorded from llama.cpp (llama-cpp-python 0.3.36).
CHANGED: dict[str, dict[str, Any]] = {
    "glm5-next": {"attention.indexer.top_k": 32},  # fewer keys than there are
    "qwen4exp": {"attention.indexer.top_k": 32},
    "lfm2": {"attention.sliding_window": 16},
    "rwkv6": {"rescale_every_n_layers": 2},
    "bert": {"pooling_type": 2},
    "modern-bert": {"hidden_activation": "silu", "attention.sliding_window": 12},
    "qwen3": {"pooling_type": 3},
}


@needs(kit.KIT)
@pytest.mark.parametrize("name", CHANGED)
def test_other_keys_as_in_llama_cpp(name: str, tmp_path: Path) -> None:
    recorded = np.load(Path(__file__).with_name("recorded") / "changed_keys.npz")
    model = kit.load(name, tmp_path, changes=CHANGED[name])
    pooling: Result = model.pooling or ("mean" if name == "modern-bert" else "")
    if pooling:
        model = kit.load(name, tmp_path, pooling)
    found = kit.run(model.graph, recorded["tokens"], 120)
    rows = found if pooling else found[recorded["positions"]]
    assert kit.nmse(recorded[name], rows) < (1e-6 if name == "bert" else LIMIT)


@needs(kit.KIT)
def test_any_decoder_gives_embeddings_too(tmp_path: Path) -> None:
    tokens = np.arange(20, dtype=np.int32)
    rows = kit.run(kit.load("qwen3", tmp_path, "embeddings").graph, tokens, 20)
    last, mean = (kit.run(kit.load("qwen3", tmp_path, kind).graph, tokens, 20) for kind in ("last", "mean"))
    assert np.allclose(last, rows[-1]) and np.allclose(mean, rows.mean(axis=0), atol=1e-6)


@needs(kit.KIT)
def test_what_an_encoder_cannot_give_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="an encoder"):
        kit.load("bert", tmp_path, "logits")
    with pytest.raises(ModelError, match="no classifier"):
        kit.load("bert", tmp_path, "rank")


# recurrences: 3 heads, keys of 4, values of 5

_INPUTS = {
    "ssm": ((3, 5), (3, 1), (1, 4), (1, 4)),
    "delta": ((3, 4), (3, 4), (3, 5), (3, 1), (3, 1)),
    "linear": ((3, 4), (3, 4), (3, 5), (3, 4)),
    "rwkv6": ((3, 4), (3, 4), (3, 5), (3, 4)),
    "rwkv7": ((3, 4), (3, 4), (3, 5), (3, 4), (3, 4), (3, 4)),
}
_WEIGHTS = {"ssm": ((3, 4), (3, 1)), "rwkv6": ((3, 4),)}


def _tensor(name: str, values: np.ndarray) -> Tensor:
    return Tensor(name, values.shape, "F32", values.astype(np.float32).reshape(-1).view(np.uint8))


def _recurrence(kind: str, rng: np.random.Generator) -> Graph:
    """A table of 30 tokens whose rows are all inputs of a recurrence, below 0 as decays are."""
    graph, shapes = Graph(), _INPUTS[kind]
    sizes = [heads * width for heads, width in shapes]
    x = graph(Embed(_tensor("table", -rng.random((30, sum(sizes))))))
    inputs: list[Value] = []
    for (heads, _), size, end in zip(shapes, sizes, np.cumsum(sizes), strict=True):
        inputs.append(graph(View(graph(Slice(x, int(end) - size, int(end))), heads)))
    weights = tuple(_tensor(f"w{i}", -rng.random(shape)) for i, shape in enumerate(_WEIGHTS.get(kind, ())))
    graph(Recurrence(kind, tuple(inputs), weights, 0, 3, 5))
    return graph


@pytest.mark.parametrize("kind", _INPUTS)
def test_a_recurrence_in_pieces_is_the_same(kind: str) -> None:
    rng = np.random.default_rng(7)
    graph, tokens = _recurrence(kind, rng), rng.integers(0, 30, 40)
    whole = kit.run(graph, tokens, 40)
    for step in 1, 7:
        assert np.allclose(kit.run(graph, tokens, step), whole, rtol=1e-6)


def test_sequences_do_not_share_a_state_and_cannot_go_back() -> None:
    rng = np.random.default_rng(8)
    graph, backend = (g := _recurrence("delta", rng)), ReferenceBackend(g, 64)
    texts = [rng.integers(0, 30, n).astype(np.int32) for n in (9, 4)]
    sequences = kit.sequences(backend, 2)
    for sequence, text in zip(sequences, texts, strict=True):
        sequence.reserve(len(text))
    together = backend.start(Batch([Chunk(s, t, 0) for s, t in zip(sequences, texts, strict=True)]))()
    assert np.allclose(together, np.concatenate([kit.run(graph, text, 64) for text in texts]), rtol=1e-6)
    sequences[0].n_computed = 9
    sequences[0].reserve(9)
    with pytest.raises(PlanError, match="cannot go on at 3"):
        backend.start(Batch([Chunk(sequences[0], texts[0], 0, 3)]))


def test_ngrams_end_where_a_text_does() -> None:
    """Rows by hand: multipliers 1, 3, 5; two heads, of the 2-gram and the 3-gram; token 0 ends a text."""
    rows = _tensor("rows", np.arange(40, dtype=np.float64).reshape(40, 1))
    graph = Graph()
    graph(EmbedNgrams(rows, (1, 3, 5), (20, 20), (0, 20), 0, 0))
    tokens = np.array([7, 2, 0, 4, 9])
    before = [(0, 0), (7, 0), (2, 7), (0, 0), (4, 0)]
    truth = [[(t ^ 3 * a) % 20, (t ^ 3 * a ^ 5 * b) % 20 + 20] for t, (a, b) in zip(tokens, before, strict=True)]
    for step in 1, 2, 5:
        assert kit.run(graph, tokens, step).tolist() == truth


def test_linear_attention_is_attention_without_a_softmax() -> None:
    """The closed form: what token s gives to token t is (q·k) times all decays between them."""
    rng = np.random.default_rng(9)
    graph, tokens = _recurrence("linear", rng), rng.integers(0, 30, 12)
    q, k, v, decay = np.split(_rows(graph, tokens), [12, 24, 39], axis=1)
    q, k, v, decay = (x.reshape(12, 3, -1) for x in (q, k, v, decay))
    truth = np.zeros((12, 3, 5))
    for t in range(12):
        for s in range(t + 1):
            kept = np.prod(decay[s + 1 : t + 1], axis=0)
            truth[t] += np.einsum("hn,hn,hw->hw", q[t] * kept, k[s], v[s])
    assert np.allclose(kit.run(graph, tokens, 12), truth.reshape(12, -1), rtol=1e-4)


def _rows(graph: Graph, tokens: np.ndarray) -> np.ndarray:
    embed = graph.ops[0]
    assert isinstance(embed, Embed)
    return embed.table.data.view(np.float32).reshape(embed.table.shape)[tokens].astype(np.float64)

"""Embedding and ranking: against llama.cpp's record and the reference backend; what the arguments and commands do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gguf_runtime import LLM, architectures
from gguf_runtime.architectures import ModelError, Result
from gguf_runtime.engine import ContextFull
from gguf_runtime.loader import open_gguf
from tests import kit
from tests.make_bert import CLS, SEP, write_bert
from tests.make_model import write_model
from tests.paths import needs

#: One of each kind of the kit's encoders, and how far keys and values of halves take it from llama.cpp's of F32.
ENCODERS = {
    "bert-rank": 5e-6, "gemma-embedding": 5e-6, "jina-bert-v2": 1e-5, "modern-bert": 2e-5, "nomic-bert": 1e-4,
    "t5encoder": 1e-5,
}  # fmt: skip
TEXTS = ["a", "the quick brown fox jumps over the lazy dog", "x y z " * 60, "", "abc def", "over the lazy dog"]


@needs(kit.KIT)
@pytest.mark.parametrize("name", ENCODERS)
def test_embeddings_as_in_llama_cpp(name: str, tmp_path: Path) -> None:
    record = kit.record(name)
    tokens = record["tokens"].tolist()
    with LLM(kit.file(name, tmp_path), n_threads=2) as llm:
        texts = [tokens[:5], tokens, tokens[:50]]
        rows = llm.embed_tokens(texts)
        assert [len(each) for each in rows] == [5, 96, 50]
        assert kit.nmse(record["embeddings"], rows[1][record["positions"]]) < ENCODERS[name]
        if "pooled" in record:
            assert llm.embedder().pooling == str(record["pooling"])
            assert kit.nmse(record["pooled"], llm.embedder().step(texts)[1]) < ENCODERS[name]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert") / "bert.gguf"
    write_bert(path)
    return path


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranker") / "ranker.gguf"
    write_bert(path, labels=1, **{"bert.pooling_type": 4})
    return path


def by_reference(path: Path, tokens: list[int], result: Result) -> np.ndarray:
    """What the reference makes of one text."""
    with open_gguf(path) as file:
        return kit.run(architectures.load(file, result=result).graph, np.array(tokens), max(len(tokens), 1))[0]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_texts_together_are_as_each_alone_in_the_reference(bert: Path, pooling: str) -> None:
    result: dict[str, Result] = {"mean": "mean", "cls": "first", "last": "last"}
    with LLM(bert) as llm:
        done: list[int] = []
        vectors = llm.embed(TEXTS, pooling=pooling, normalize=False, progress=done.append)
        assert vectors.shape == (len(TEXTS), 64) and vectors.dtype == np.float32
        assert done[-1] == len(TEXTS) and done == sorted(done)
        for text, vector in zip(TEXTS, vectors, strict=True):
            tokens = llm.tokenize(text)
            assert tokens[0] == CLS and tokens[-1] == SEP
            assert kit.nmse(by_reference(bert, tokens, result[pooling]), vector) < 1e-5


def test_a_decoder_embeds_by_its_last_token_and_goes_on_generating(model: Path) -> None:
    with LLM(model) as llm:
        answer = llm.generate("a b", max_tokens=4, temperature=0)
        vectors = llm.embed(TEXTS[:3])
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        for text, vector in zip(TEXTS[:3], vectors, strict=True):
            truth = by_reference(model, llm.tokenize(text), "last")
            assert kit.nmse(truth / np.linalg.norm(truth), vector) < 1e-5
        assert llm.generate("a b", max_tokens=4, temperature=0) == answer
        assert llm.engine.pages.n_held == 0 == llm.embedder().engine.pages.n_held
    with LLM(model, embedding=True) as llm:
        assert not llm.generates and np.array_equal(llm.embed(TEXTS[:3]), vectors)
        with pytest.raises(ModelError, match="loaded for embeddings"):
            llm.generate("a")


def test_forms_of_texts_and_vectors(bert: Path) -> None:
    with LLM(bert) as llm:
        whole = llm.embed(TEXTS[1])
        assert whole.shape == (64,)
        assert np.array_equal(llm.embed([llm.tokenize(TEXTS[1])])[0], whole)
        assert np.array_equal(llm.embed([TEXTS[1][4:]], prefix="the ")[0], whole)
        cut = llm.embed(TEXTS[1], dimensions=16)
        assert np.allclose(cut, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)
        assert llm.embed([]).shape == (0, 64)
        rows = llm.embed_tokens([TEXTS[1]], normalize=True)[0]
        assert rows.shape == (len(llm.tokenize(TEXTS[1])), 64)
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_texts_that_are_too_long_are_refused_or_cut(bert: Path) -> None:
    long = "x " * 500
    with LLM(bert) as llm:
        with pytest.raises(ContextFull, match="text 2 is too large: it has 502 tokens.* 400"):
            llm.embed(["a", long])
        wanted = [*llm.tokenize(long)[:399], SEP]
        assert np.array_equal(llm.embed([long], truncate=True), llm.embed([wanted]))
    with LLM(bert, n_ubatch=8) as llm, pytest.raises(ContextFull, match="9 tokens.* 8 "):
        llm.embed("a b c d e f g")


def test_what_cannot_be_is_said(bert: Path, ranker: Path) -> None:
    with LLM(bert) as llm:
        with pytest.raises(ValueError, match="64, not 65"):
            llm.embed(["a"], dimensions=65)
        with pytest.raises(ValueError, match="pooling must be one of none, mean"):
            llm.embed(["a"], pooling="max")
        with pytest.raises(ValueError, match="text 2 has no tokens"):
            llm.embed(["a", []])
        with pytest.raises(ValueError, match="not in the vocabulary"):
            llm.embed([[1000]])
        with pytest.raises(ModelError, match="no classifier"):
            llm.rerank("a", ["b"])
        with pytest.raises(ModelError, match="encoder, which has no next token"):
            llm.generate("a")
    with LLM(ranker) as llm, pytest.raises(ValueError, match="rerank"):
        llm.embed(["a"])


@pytest.mark.parametrize("ends", [False, True])
def test_pairs_are_framed_as_in_llama_cpp(tmp_path: Path, ends: bool) -> None:
    path = tmp_path / "ranker.gguf"
    keys = {"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.add_sep_token": False} if ends else {}
    write_bert(path, labels=1, **{"bert.pooling_type": 4}, **keys)
    with LLM(path) as llm:
        first, second = (llm.tokenize(text, add_special=False) for text in ("a bc", "de [SEP]"))
        assert SEP not in second
        pair = [CLS, *first, SEP, *second, *([SEP] if ends else [])]
        assert llm.embedder().pair("a bc", "de [SEP]") == pair
        scores = llm.rerank("a bc", ["de [SEP]", "a", "bc"])
        assert scores.shape == (3,)
        assert np.allclose(scores[0], by_reference(path, pair, "rank"), rtol=1e-3)


def test_decoders_rank_by_a_template_that_texts_cannot_break(tmp_path: Path) -> None:
    """As Qwen 3's rerankers: shares of yes and no at the last token."""
    path = tmp_path / "qwen3.gguf"
    template = "<|bos|>query: {query} text: {document}<|eos|>"
    extra = {f"blk.{i}.attn_{part}_norm.weight": np.ones(32) for i in range(2) for part in "qk"}
    extra["cls.output.weight"] = np.random.default_rng(1).normal(size=(2, 64))
    keys = {"qwen3.pooling_type": 4, "tokenizer.chat_template.rerank": template}
    write_model(path, arch="qwen3", n_embd=64, n_head=2, n_head_kv=1, n_ff=64, extra=extra, **keys)
    with LLM(path) as llm:
        pair = llm.embedder("rank").pair("{document}<|eos|>", "the {query}")
        ends = llm.tokenizer.bos_id, llm.tokenizer.eos_id
        assert (pair[0], pair[-1]) == ends and not set(ends) & set(pair[1:-1])
        assert llm.tokenizer.decode(pair[1:-1]) == "query: {document}<|eos|> text: the {query}"
        shares = by_reference(path, pair, "rank")
        assert np.isclose(shares.sum(), 1)
        assert np.allclose(llm.rerank("{document}<|eos|>", ["the {query}"]), shares[0], rtol=1e-3)


def test_ggrun_embed(ggrun, bert: Path, tmp_path: Path) -> None:
    with LLM(bert) as llm:
        vectors = llm.embed(TEXTS)
    found = json.loads(ggrun("embed", bert, *TEXTS[:3]).stdout)
    assert found["model"] == "bert"
    assert np.allclose(np.array(found["embeddings"], np.float32), vectors[:3], atol=1e-6)
    lines = ggrun("embed", "-m", bert, "--jsonl", input="\n".join(TEXTS[:3]).encode()).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1, 2, 3]
    assert np.allclose([json.loads(line)["embedding"] for line in lines], vectors[:3], atol=1e-6)
    (tmp_path / "texts.jsonl").write_text(f'{{"id": "q", "text": "{TEXTS[1]}"}}\n"{TEXTS[4]}"\n')
    file = tmp_path / "vectors.npy"
    line = "--texts", tmp_path / "texts.jsonl", "--npy", "-o", file, "--dimensions", 8, "--no-normalize"
    done = ggrun("embed", bert, *line)
    assert done.returncode == 0 and done.stdout == done.stderr == b""
    array = np.load(file)
    assert array.dtype == np.float32 and array.shape == (2, 8)
    line = "--pooling", "none", "--jsonl", "--texts", tmp_path / "texts.jsonl"
    rows = [json.loads(line) for line in ggrun("embed", bert, *line).stdout.splitlines()]
    assert rows[0]["id"] == "q" and rows[1]["id"] == 2
    assert np.allclose(np.mean(rows[1]["embedding"], axis=0)[:8], array[1], atol=1e-5)


def test_ggrun_rerank(ggrun, ranker: Path) -> None:
    texts = ["the dog", "a cat", "birds"]
    with LLM(ranker) as llm:
        scores = llm.rerank("the query", texts)
    order = np.argsort(-scores)
    found = [json.loads(line) for line in ggrun("rerank", ranker, "the query", *texts, "--jsonl").stdout.splitlines()]
    assert [one["text"] for one in found] == [texts[i] for i in order]
    assert np.allclose([one["score"] for one in found], scores[order], atol=1e-5)
    done = ggrun("rerank", "-m", ranker, "the query", "-n", 1, input="\n".join(texts).encode())
    assert done.stdout.decode() == f"{scores[order[0]]:10.4f}  {texts[order[0]]}\n"


@pytest.mark.parametrize(
    ("command", "line", "code", "said"),
    [
        ("embed", [], 2, "no text"),
        ("embed", ["a", "--pooling", "rank"], 2, "ggrun rerank"),
        ("embed", ["a", "b", "--npy", "--pooling", "none"], 2, "--jsonl"),
        ("embed", ["a", "--dimensions", "65"], 1, "64, not 65"),
        ("embed", ["x " * 500], 1, "502 tokens"),
        ("embed", ["--texts", "{no.jsonl}"], 2, "line 2 of the texts is not JSON"),
        ("embed", ["a", "--embd-normalize", "2"], 2, "--no-normalize"),
        ("rerank", [], 2, "no query"),
        ("rerank", ["a", "b"], 1, "no classifier"),
        ("run", ["-p", "a"], 1, "encoder, which has no next token"),
    ],
)
def test_what_the_commands_say(ggrun, bert: Path, tmp_path: Path, command, line, code, said) -> None:
    (tmp_path / "no.jsonl").write_text('"a"\nb\n')
    done = ggrun(command, bert, *(part.replace("{no.jsonl}", str(tmp_path / "no.jsonl")) for part in line))
    assert done.returncode == code and said in done.stderr.decode() and done.stdout == b""
    if code == 1:
        assert len(done.stderr.decode().splitlines()) == 1

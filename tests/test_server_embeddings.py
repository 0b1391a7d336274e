"""Embeddings and reranking: statements 3.2, 3.4 and 6.16 of wire.md, llama-server's own form, and real clients."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn")

from gguf_runtime import LLM  # noqa: E402
from gguf_runtime.store import Store, StoredModel  # noqa: E402
from tests.make_bert import write_bert  # noqa: E402
from tests.serving import Server  # noqa: E402
from tests.test_server import raw, request, running, wait  # noqa: E402

PATH = "/v1/embeddings"
TEXTS = ["the lazy dog", "a", "over the quick brown fox " * 9]
USER = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    write_bert(folder / "bert.gguf")
    write_bert(folder / "ranker.gguf", labels=1, **{"bert.pooling_type": 4})
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def encoders(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An encoder, which is that of requests that name none, and a reranker."""
    folder = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGRUN_MODELS", str(folder / "store"))
        for name, path in files.items():
            Store().copy(StoredModel(name, (path,)), name)
        server = Server("bert", "--all", "--kv-memory", "4M", folder=folder)
    yield server
    server.close()


@pytest.fixture(scope="module")
def truth(files: dict[str, Path]) -> np.ndarray:
    """f32[n_texts, width]"""
    with LLM(files["bert"]) as llm:
        return llm.embed(TEXTS)


def embedded(server: Server, path: str = PATH, **body: Any) -> Any:
    answer = server.post(path, **body)
    assert answer.status == 200, answer
    return answer.body


def rows(answer: Any) -> np.ndarray:
    assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
    return np.array([one["embedding"] for one in answer["data"]])


def test_3_02_embeddings(encoders: Server, truth: np.ndarray, files: dict[str, Path]) -> None:
    answer = embedded(encoders, input=TEXTS, model="bert")
    assert (answer["object"], answer["model"], answer["data"][0]["object"]) == ("list", "bert", "embedding")
    assert np.allclose(rows(answer), truth, atol=1e-6)
    with LLM(files["bert"]) as llm:
        ids = [llm.tokenize(text) for text in TEXTS]
    n = sum(map(len, ids))
    assert answer["usage"] == {"prompt_tokens": n, "total_tokens": n}
    assert np.allclose(rows(embedded(encoders, input=ids)), truth, atol=1e-6)
    for one in (TEXTS[0], ids[0], [TEXTS[0]]):
        assert np.allclose(rows(embedded(encoders, "/embeddings", input=one)), truth[:1], atol=1e-6)
    cut = rows(embedded(encoders, input=TEXTS, dimensions=16))
    assert np.allclose(cut, truth[:, :16] / np.linalg.norm(truth[:, :16], axis=1, keepdims=True), atol=1e-6)
    coded = embedded(encoders, input=TEXTS, encoding_format="base64")["data"][2]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(coded), "<f4"), truth[2], atol=1e-6)
    assert encoders.log[-1]["n_prompt"] == n


def test_3_02_what_is_wrong(encoders: Server) -> None:
    def refused(status: int = 400, **body: Any) -> str:
        answer = encoders.post(PATH, **body)
        assert answer.status == status, answer
        return str(answer.body["error"]["message"])

    for wrong in (None, 7, [], {}, [[]], ["a", True], [1, True], [1.5], [{"content": [{"type": "image_url"}]}]):
        refused(input=wrong)
    assert "cl100k" in refused(input=[[99999]])
    assert "64, not 65" in refused(input="a", dimensions=65)
    refused(input="a", encoding_format="hex")
    assert "502 tokens" in refused(input="x " * 500)
    assert embedded(encoders, input="x " * 500, truncate=True)["usage"]["prompt_tokens"] == 400
    assert "reranker" in refused(input="a", model="ranker")


def test_encoders_say_that_they_do_not_write(encoders: Server) -> None:
    body = {"model": "bert", "messages": USER, "prompt": "a", "max_tokens": 4, "input": "a", "inputs": "a"}
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/completion"):
        answer = encoders.post(path, **body)
        assert answer.status == 400, (path, answer)
        assert "encoder" in str(answer.body["error"]), path
    for path in ("/api/chat", "/api/generate"):
        assert "encoder" in encoders.post(path, **body).body["error"]
    assert "cannot fill in" in encoders.post("/infill", input_prefix="a", input_suffix="b").body["error"]["message"]
    assert encoders.post("/api/show", model="bert").body["capabilities"] == ["embedding"]
    assert encoders.get("/props").body["default_generation_settings"]["n_ctx"] == 400
    assert encoders.get("/metrics").status == encoders.get("/slots").status == 200


def test_llama_servers_own_form(encoders: Server, truth: np.ndarray) -> None:
    for path in ("/embedding", "/embeddings", PATH):
        found = embedded(encoders, path, content=TEXTS)
        assert [one["index"] for one in found] == [0, 1, 2]
        assert np.allclose([one["embedding"][0] for one in found], truth, atol=1e-6)
    plain = np.array(embedded(encoders, "/embedding", content="a", embd_normalize=-1)[0]["embedding"][0])
    assert not np.isclose(np.linalg.norm(plain), 1)
    assert np.allclose(plain / np.linalg.norm(plain), truth[1], atol=1e-6)
    assert encoders.post("/embedding", content="a", embd_normalize=1).status == 400


def test_3_04_rerank(encoders: Server, files: dict[str, Path]) -> None:
    with LLM(files["ranker"]) as llm:
        scores = llm.rerank("dog", TEXTS)
    order = [int(i) for i in np.argsort(-scores)]
    asked = {"model": "ranker", "query": "dog"}
    for path in ("/v1/rerank", "/rerank", "/reranking", "/v1/reranking"):
        answer = embedded(encoders, path, documents=TEXTS, **asked)
        assert [one["index"] for one in answer["results"]] == order
        assert np.allclose([one["relevance_score"] for one in answer["results"]], scores[order], rtol=1e-4)
        assert answer["usage"]["prompt_tokens"] > 0
    (best,) = embedded(
        encoders, "/v1/rerank", documents=[{"text": text} for text in TEXTS], top_n=1, return_documents=True, **asked
    )["results"]
    assert (best["index"], best["document"]) == (order[0], {"text": TEXTS[order[0]]})
    tei = embedded(encoders, "/rerank", texts=TEXTS, return_text=True, **asked)
    assert [(one["index"], one["text"]) for one in tei] == [(i, TEXTS[i]) for i in order]
    assert np.allclose([one["score"] for one in tei], scores[order], rtol=1e-4)
    for wrong in ({}, {"documents": []}, {"documents": ["a", 1]}, {"documents": "a"}, {"texts": ["a"], "query": None}):
        assert encoders.post("/v1/rerank", **{**asked, **wrong}).status == 400, wrong
    assert encoders.post("/v1/rerank", model="bert", query="a", documents=["b"]).status == 400


def test_6_16_ollama(encoders: Server, truth: np.ndarray) -> None:
    answer = embedded(encoders, "/api/embed", model="bert", input=TEXTS)
    assert np.allclose(answer["embeddings"], truth, atol=1e-6)
    assert answer["model"] == "bert:latest"
    assert all(isinstance(answer[name], int) for name in ("total_duration", "load_duration", "prompt_eval_count"))
    long = {"model": "bert", "input": "x " * 500}
    assert embedded(encoders, "/api/embed", **long)["prompt_eval_count"] == 400
    assert "502 tokens" in encoders.post("/api/embed", truncate=False, **long).body["error"]
    assert np.shape(embedded(encoders, "/api/embed", model="bert", input="a", dimensions=8)["embeddings"]) == (1, 8)
    vector = np.array(embedded(encoders, "/api/embeddings", model="bert", prompt=TEXTS[0])["embedding"])
    assert np.allclose(vector / np.linalg.norm(vector), truth[0], atol=1e-6)
    assert embedded(encoders, "/api/embed", model="bert", input=[])["embeddings"] == []
    assert embedded(encoders, "/api/embeddings", model="bert", prompt="")["embedding"] == []
    assert encoders.post("/api/embed", model="nobody", input="a").status == 404


def test_decoders_embed_while_they_answer(server: Server, served_model: Path) -> None:
    """Passes over many texts and the steps of an answer take turns."""
    with LLM(served_model) as llm:
        truth = llm.embed(TEXTS)
    events = server.events("/completion", prompt="Hello", n_predict=3000, ignore_eos=True)
    next(events)
    assert np.allclose(rows(embedded(server, input=TEXTS * 20)), np.tile(truth, (20, 1)), atol=1e-5)
    assert next(events)["stop"] is False
    events.close()
    assert server.post("/v1/rerank", query="a", documents=["b"]).status == 400


def test_who_goes_away_has_no_more_embedded(server: Server) -> None:
    wait(lambda: not running(server))
    connection = raw(server, request(PATH, {"input": ["a b c d " * 500] * 300}))
    wait(lambda: running(server) == 1)
    connection.close()
    wait(lambda: not running(server), 5)
    assert embedded(server, input="a")["usage"]["prompt_tokens"] > 0


def test_the_openai_package(encoders: Server, truth: np.ndarray) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{encoders.url}/v1", api_key="any")
    found = client.embeddings.create(model="bert", input=TEXTS)
    assert np.allclose([one.embedding for one in found.data], truth, atol=1e-6)
    assert found.usage.total_tokens > 0
    found = client.embeddings.create(model="bert", input=TEXTS[0], encoding_format="float", dimensions=8)
    assert len(found.data[0].embedding) == 8
    with pytest.raises(openai.BadRequestError, match="cl100k"):
        client.embeddings.create(model="bert", input=[[9906, 1917]])
    with pytest.raises(openai.APIStatusError, match="encoder"):
        client.chat.completions.create(model="bert", messages=[{"role": "user", "content": "Hello"}])


def test_the_ollama_package(encoders: Server, truth: np.ndarray) -> None:
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=encoders.url)
    assert np.allclose(client.embed("bert", TEXTS).embeddings, truth, atol=1e-6)
    assert len(client.embeddings("bert", TEXTS[0]).embedding) == 64
    with pytest.raises(ollama.ResponseError, match="encoder"):
        client.chat("bert", messages=USER)

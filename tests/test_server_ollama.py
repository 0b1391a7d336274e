"""Ollama's routes: section 6 of wire.md, each test by its statement's number, and the ollama package on them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from gguf_runtime.store import Store, StoredModel  # noqa: E402
from tests.model_servers import ModelServer  # noqa: E402
from tests.serving import Answer, Server  # noqa: E402
from tests.test_server_openai import TOOLS, USER  # noqa: E402

NAME = "served:latest"
DURATIONS = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
BRIEF = {"options": {"num_predict": 4}}


def lines(server: Server, path: str, **body: Any) -> list[Any]:
    connection, response = server.send("POST", path, {"model": "served", **body})
    assert response.status == 200, response.read()
    assert response.getheader("content-type") == "application/x-ndjson"
    found = [json.loads(line) for line in response]
    connection.close()
    return found


def whole(server: Server, path: str, **body: Any) -> Any:
    answer = server.post(path, **{"model": "served", "stream": False, **body})
    assert answer.status == 200, answer
    return answer.body


def refused(server: Server, path: str, status: int = 400, **body: Any) -> str:
    answer = server.post(path, **{"model": "served", **body})
    assert answer.status == status, answer
    assert set(answer.body) == {"error"}  # 6.17
    return str(answer.body["error"])


def said(found: list[Any], name: str = "content") -> str:
    return "".join(line["message"].get(name, "") for line in found)


def test_6_01_the_root_and_the_version(server: Server) -> None:
    for method in ("GET", "HEAD"):
        assert server.ask(method, "/").status == 200
        assert server.ask(method, "/api/tags").status == 200
        assert server.ask(method, "/api/version").status == 200
    assert server.get("/").body == "Ollama is running"
    assert tuple(map(int, server.get("/api/version").body["version"].split("."))) >= (0, 6, 4)


def test_6_02_and_6_03_chat_is_streamed(server: Server) -> None:
    *others, last = lines(server, "/api/chat", messages=USER, **BRIEF)
    assert all(line["done"] is False for line in others)
    assert all({"model", "created_at", "message", "done"} <= set(line) for line in [*others, last])
    assert all(line["model"] == NAME for line in others)
    assert datetime.fromisoformat(last["created_at"]).tzinfo
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert set(last) >= DURATIONS
    assert all(isinstance(last[name], int) for name in DURATIONS)
    assert last["eval_count"] == 4
    assert last["prompt_eval_count"] > 5
    answer = whole(server, "/api/chat", messages=USER, options={"num_predict": 4, "seed": 1})
    assert answer["message"]["content"] == said(
        lines(server, "/api/chat", messages=USER, options={"num_predict": 4, "seed": 1})
    )


def test_6_04_generate(server: Server) -> None:
    *others, last = lines(server, "/api/generate", prompt="Hello", **BRIEF)
    assert "".join(line["response"] for line in others)
    again = whole(server, "/api/generate", prompt="more", context=last["context"], **BRIEF)
    assert again["prompt_eval_count"] > last["prompt_eval_count"] + 4
    assert again["context"][: len(last["context"])] == last["context"]
    with_system = whole(server, "/api/generate", prompt="Hello", system="Be brief.", **BRIEF)
    assert with_system["prompt_eval_count"] > last["prompt_eval_count"]
    raw = whole(server, "/api/generate", prompt="Hello", raw=True, **BRIEF)
    assert raw["prompt_eval_count"] < last["prompt_eval_count"]
    assert whole(server, "/api/generate", prompt="ab", suffix="yz", **BRIEF)["eval_count"]
    refused(server, "/api/generate", prompt="x", raw=True, system="y")
    refused(server, "/api/generate", prompt="x", raw=True, context=[1])
    refused(server, "/api/generate", prompt="x", images=["abc"])


def test_6_05_loading_and_unloading(server: Server) -> None:
    loaded = whole(server, "/api/chat", messages=[])
    assert (loaded["done"], loaded["done_reason"], loaded["message"]["content"]) == (True, "load", "")
    assert whole(server, "/api/generate", prompt="")["done_reason"] == "load"
    assert whole(server, "/api/generate", keep_alive=0)["done_reason"] == "unload"
    assert server.get("/api/ps").body == {"models": []}
    assert whole(server, "/api/chat", messages=USER, **BRIEF)["done_reason"] == "length"


def test_6_06_calls(server: Server) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Ghent"}}}
    conversation = [
        *USER,
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": "rain"},
    ]
    assert whole(server, "/api/chat", messages=conversation, tools=TOOLS, **BRIEF)["prompt_eval_count"] > 50
    wrong = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]
    refused(server, "/api/chat", messages=wrong)


def test_6_07_forms_and_thoughts(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    text = whole(server, "/api/chat", messages=USER, format=schema)["message"]["content"]
    assert json.loads(text) == {"a": 1}
    assert whole(server, "/api/chat", messages=USER, format="", **BRIEF)
    assert whole(server, "/api/chat", messages=USER, format="json", **BRIEF)
    refused(server, "/api/chat", messages=USER, format="yaml")
    thinking = lines(server, "/api/chat", messages=USER, think=True, **BRIEF)
    assert said(thinking, "thinking") and not said(thinking)
    quiet = lines(server, "/api/chat", messages=USER, think=False, **BRIEF)
    assert said(quiet) and not said(quiet, "thinking")
    assert lines(server, "/api/chat", messages=USER, think="high", **BRIEF)
    refused(server, "/api/chat", messages=USER, think="very")


def test_6_08_options(server: Server) -> None:
    options = {
        "num_ctx": 4096, "num_predict": 3, "temperature": 1.0, "top_k": 5, "top_p": 0.5, "min_p": 0.0, "typical_p": 1.0,
        "seed": 4, "stop": ["zzz"], "repeat_last_n": -1, "repeat_penalty": 1.1, "presence_penalty": 0.1,
        "frequency_penalty": 0.1, "mirostat": 0, "num_keep": 4, "num_gpu": 99, "unheard_of": 1,
    }  # fmt: skip
    assert whole(server, "/api/chat", messages=USER, options=options)["eval_count"] == 3
    for n in (-1, -2):  # as much as there is room for
        ends = {"options": {"num_predict": n}, "format": {"const": "x"}}
        assert whole(server, "/api/chat", messages=USER, **ends)["done_reason"] == "stop"
    told = refused(server, "/api/chat", messages=USER, options={"num_ctx": 100000})
    assert "100000" in told and "8192" in told
    refused(server, "/api/chat", messages=USER, options={"temperature": "hot"})


def test_6_09_durations() -> None:
    from gguf_runtime.server.ollama import seconds
    from gguf_runtime.server.vocabulary import Failure

    known = {300: 300, "5m": 300, "1h30m": 5400, "-1m": -60, -1: -1, "90": 90, "1.5s": 1.5}
    for value, expected in known.items():
        assert seconds(value) == expected
    for wrong in ("soon", "5 minutes", [], "m5"):
        with pytest.raises(Failure):
            seconds(wrong)


def test_6_10_names(server: Server) -> None:
    assert whole(server, "/api/chat", model="served:latest", messages=USER, **BRIEF)["model"] == NAME
    for path in ("/api/chat", "/api/generate", "/api/show"):
        assert refused(server, path, 404, model="nobody") == "model 'nobody' not found"
    refused(server, "/api/chat", model=7)
    assert server.post("/api/chat", messages=USER).status == 400


def test_6_11_to_6_14_models(server: Server) -> None:
    whole(server, "/api/chat", messages=USER, keep_alive="5m", **BRIEF)
    (listed,) = server.get("/api/tags").body["models"]
    assert (listed["name"], listed["model"]) == (NAME, NAME)
    assert len(listed["digest"]) == 64
    assert {"modified_at", "size", "details", "capabilities"} <= set(listed)
    assert {
        "parent_model", "format", "family", "families", "parameter_size", "quantization_level", "context_length",
        "embedding_length",
    } <= set(listed["details"])  # fmt: skip
    for body in ({"model": "served"}, {"name": "served"}):
        shown = server.post("/api/show", **body).body
        assert {
            "modelfile", "parameters", "template", "system", "license", "details", "model_info", "capabilities",
            "modified_at",
        } <= set(shown)  # fmt: skip
    assert shown["model_info"]["general.architecture"] == "llama"
    lengths = {key: value for key, value in shown["model_info"].items() if "context_length" in key}
    assert lengths == {"llama.context_length": 8192}  # litellm takes the first
    assert shown["model_info"]["tokenizer.ggml.tokens"] is None
    assert len(server.post("/api/show", model="served", verbose=True).body["model_info"]["tokenizer.ggml.tokens"]) > 100
    assert set(shown["capabilities"]) == {"completion", "tools", "insert", "thinking"}
    (loaded,) = server.get("/api/ps").body["models"]
    assert {"name", "model", "size", "size_vram", "digest", "details", "expires_at", "context_length"} <= set(loaded)
    expires = datetime.fromisoformat(loaded["expires_at"])
    assert 200 < (expires - datetime.now(expires.tzinfo)).total_seconds() <= 300
    assert re.search(r"\.\d{1,6}([+-]\d\d:\d\d|Z)$", loaded["expires_at"])


@pytest.fixture
def site(served_model: Path) -> Iterator[ModelServer]:
    """In Hugging Face's place."""
    with ModelServer() as site:
        site.files = {"me/tiny-GGUF/tiny-Q4_K_M.gguf": served_model.read_bytes()}
        yield site


@pytest.fixture
def kept(served_model: Path, tmp_path: Path, site: ModelServer) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGRUN_MODELS", str(tmp_path / "store"))
        patch.setenv("HF_HOME", str(tmp_path / "hf"))
        patch.setenv("HF_ENDPOINT", site.url)
        shutil.copy(served_model, tmp_path / "one.gguf")
        Store().copy(StoredModel("one", (tmp_path / "one.gguf",)), "one")
        server = Server("--all", folder=tmp_path)
    yield server
    server.close()


def test_6_15_what_is_kept(kept: Server, site: ModelServer) -> None:
    def names() -> set[str]:
        return {model["name"] for model in kept.get("/api/tags").body["models"]}

    def delete(name: str) -> Answer:
        return kept.ask("DELETE", "/api/delete", {"model": name})

    *_, last = [json.loads(line) for line in kept.post("/api/pull", model="one").body.splitlines()]
    assert last == {"status": "success"}
    assert kept.post("/api/pull", model="nobody", stream=False).status == 404
    site.seconds_per_chunk = 0.1  # of 16 KiB
    pulled = [json.loads(line) for line in kept.post("/api/pull", model="hf:me/tiny-GGUF").body.splitlines()]
    assert pulled[0] == {"status": "pulling manifest"} and pulled[-1] == {"status": "success"}
    told = [(line["completed"], line["total"], line["digest"][:7]) for line in pulled if "total" in line]
    size = len(next(iter(site.files.values())))
    assert told and told == sorted(told) and {(total, kind) for _, total, kind in told} == {(size, "sha256:")}
    assert kept.post("/api/copy", source="one", destination="two").status == 200
    assert {"one:latest", "two:latest"} <= names()
    assert kept.post("/api/copy", source="one", destination="../three").status == 400
    assert delete("two").status == 200
    assert delete("two").status == 404
    assert "two:latest" not in names()
    for path in ("/api/create", "/api/push"):
        assert kept.post(path, model="x").status == 501
    assert kept.ask("HEAD", "/api/blobs/sha256:1").status == 501


def test_the_ollama_package(server: Server) -> None:
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=server.url)
    options = {"num_predict": 5, "seed": 2}
    whole = client.chat(model="served", messages=USER, options=options)
    streamed = "".join(part.message.content for part in client.chat("served", USER, options=options, stream=True))
    assert whole.message.content == streamed
    assert client.generate("served", "Hello", options=options).response
    assert client.show("served").modelinfo["general.architecture"] == "llama"
    assert client.list().models[0].model == NAME
    assert client.ps().models[0].model == NAME
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.chat(model="nobody", messages=USER)

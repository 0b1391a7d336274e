"""The models of a server: found, loaded on demand, unloaded; `ggrun ps` and `ggrun stop`."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from gguf_runtime.store import Store, StoredModel  # noqa: E402
from tests.serving import Server  # noqa: E402

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hello"}]
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def many(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of three models, with room for two."""
    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGRUN_MODELS", str(folder / "store"))
        for name in NAMES:
            path = folder / f"{name}.gguf"
            shutil.copy(served_model, path)
            Store().copy(StoredModel(name, (path,)), name)
        room = 2.5 * (served_model.stat().st_size + (4 << 20)) / (1 << 30)
        server = Server("--all", "--kv-memory", "4M", "--model-memory", f"{room:.6f}", folder=folder)
    yield server
    server.close()


def states(server: Server) -> dict[str, str]:
    return {model["id"]: model["status"]["value"] for model in server.get("/models").body["data"]}


def test_three_models_with_room_for_two(many: Server) -> None:
    """None fails, and who is busy stays."""

    def ask(seed: int) -> tuple[int, Any]:
        name = random.Random(seed).choice(NAMES)
        answer = many.post(CHAT, model=name, messages=USER, max_tokens=1 + seed % 3)
        assert list(states(many).values()).count("loaded") <= 2
        return answer.status, answer.body.get("model") == name

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(24))) == {(200, True)}


def test_many_who_ask_for_a_model_have_it_loaded_once(many: Server) -> None:
    many.post("/models/unload", model="one")
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: many.post(CHAT, model="one", messages=USER, max_tokens=1), range(6)))
    assert {answer.status for answer in answers} == {200}
    children = Path(f"/proc/{many.process.pid}/task/{many.process.pid}/children")
    if children.exists():
        assert len(children.read_text().split()) == list(states(many).values()).count("loaded")


def test_who_gives_up_waiting_for_room_costs_nobody_a_model(many: Server) -> None:
    def begin(name: str, n: int) -> Any:
        asked = {"model": name, "messages": USER, "max_tokens": n, "stream": True, "ignore_eos": True}
        return many.send("POST", CHAT, asked)

    busy = [begin(name, 4000) for name in ("one", "two")]
    for _, response in busy:
        response.readline()  # the first token is on its way: both are in use
    waiting = many.connect()
    waiting.request("POST", CHAT, b'{"model": "three", "messages": [{"role": "user", "content": "Hello"}]}')
    while states(many)["three"] != "loading":
        pass
    waiting.close()
    while states(many)["three"] != "unloaded":
        pass
    for connection, _ in busy:
        connection.close()
    time.sleep(0.5)
    assert [states(many)[name] for name in NAMES] == ["loaded", "loaded", "unloaded"]


def test_how_long_a_model_stays(many: Server) -> None:
    assert many.post(CHAT, model="two", messages=USER, max_tokens=1, keep_alive=0).status == 200
    end = time.monotonic() + 20
    while states(many)["two"] != "unloaded":
        assert time.monotonic() < end
        time.sleep(0.02)


def test_names(many: Server) -> None:
    assert {model["id"] for model in many.get("/v1/models").body["data"]} >= set(NAMES)
    assert many.post(CHAT, model="two:latest", messages=USER, max_tokens=1).status == 200
    assert many.post(CHAT, model="four", messages=USER).status == 404
    assert many.post(CHAT, model="/etc/passwd", messages=USER).status == 404


def test_ps_and_stop(many: Server, ggrun: Any) -> None:
    many.post(CHAT, model="one", messages=USER, max_tokens=1)
    at = {"env": {**os.environ, "GGRUN_HOST": many.url}}
    shown = ggrun("ps", **at).stdout.decode()
    assert "one" in shown and "8192" in shown
    assert ggrun("stop", "one", **at).returncode == 0
    assert states(many)["one"] == "unloaded"
    assert ggrun("stop", "--all", **at).returncode == 0
    assert "loaded" not in states(many).values()
    assert ggrun("stop", **at).returncode == 2
    unknown = ggrun("stop", "nobody", **at)
    assert unknown.returncode == 1 and b"nobody" in unknown.stderr
    nowhere = ggrun("ps", "--url", "http://127.0.0.1:9")
    assert nowhere.returncode == 1
    assert len(nowhere.stderr.decode().strip().splitlines()) == 1


def test_embedding_has_a_cache_of_its_own_in_the_budget(many: Server) -> None:
    """A model that answers and embeds has two: no other has room beside it then."""
    for name in ("one", "two"):
        assert many.post(CHAT, model=name, messages=USER, max_tokens=1).status == 200

    def ask(i: int) -> int:
        name = NAMES[i % 2]
        if i % 3:
            return many.post("/v1/embeddings", model=name, input="Hello").status
        return many.post(CHAT, model=name, messages=USER, max_tokens=2).status

    with ThreadPoolExecutor(6) as threads:  # both want more at the same time
        assert set(threads.map(ask, range(9))) == {200}
    assert list(states(many).values()).count("loaded") == 1


def test_a_model_that_was_created(served_model: Path, tmp_path: Path) -> None:
    """Its Modelfile fills in what requests leave open; and it is served as Ollama's are."""
    recipe = "FROM served\nSYSTEM Be brief.\nPARAMETER num_predict 3\nPARAMETER num_ctx 512\nPARAMETER temperature 0\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGRUN_MODELS", str(tmp_path / "store"))
        Store().copy(StoredModel("served", (served_model,)), "brief", recipe)
        Store().copy(StoredModel("served", (served_model,)), "plain")
        patch.setenv("OLLAMA_HOST", "127.0.0.1:0")
        server = Server("--ollama", folder=tmp_path)
    try:
        made = server.post(CHAT, model="brief", messages=USER).body
        assert made["usage"]["completion_tokens"] == 3
        asked = [{"role": "system", "content": "Be brief."}, *USER]
        plain = server.post(CHAT, model="plain", messages=asked, max_tokens=3, temperature=0).body
        assert made["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
        assert made["choices"] == plain["choices"]
        shown = server.post("/api/show", model="brief").body
        assert shown["system"] == "Be brief." and "num_predict 3" in shown["parameters"]
        loaded = {model["model"]: model["context_length"] for model in server.get("/api/ps").body["models"]}
        assert loaded == {"brief:latest": 512, "plain:latest": 8192}
    finally:
        server.close()


def test_a_model_that_cannot_be_loaded(served_model: Path, tmp_path: Path) -> None:
    """One that is broken at the start ends the server; here it breaks while it is not loaded."""
    path, broken = tmp_path / "model.gguf", tmp_path / "broken.gguf"
    shutil.copy(served_model, path)
    broken.write_bytes(served_model.read_bytes()[:-5000])
    server = Server(path, folder=tmp_path)
    try:
        assert server.post(CHAT, messages=USER, max_tokens=1).status == 200
        assert server.post("/models/unload", model="model").status == 200
        os.replace(broken, path)
        answer = server.post(CHAT, messages=USER)
        assert answer.status == 500
        assert "model.gguf" in answer.body["error"]["message"]
    finally:
        server.close()

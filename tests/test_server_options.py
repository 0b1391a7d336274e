"""`ggrun serve` with llama-server's options."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.serving import Answer, Server  # noqa: E402

OPTIONS = (
    "-a main,two,* --tags chat,small -n 90 --seed 7 --temp 0 --ignore-eos -np 2 -c 64 --context-shift --no-slots "
    "--no-metrics --no-ui --api-prefix /llm --reasoning off -v --embedding --cache-reuse 256 --threads-http 4"
)


@pytest.fixture(scope="module")
def other(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose paths begin with /llm."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "keys").write_text("first\n\nsecond\n")
    server = Server(served_model, *OPTIONS.split(), "--api-key-file", folder / "keys", folder=folder)
    yield server
    server.close()


def ask(server: Server, path: str, key: str = "second", **body: Any) -> Answer:
    return server.ask("POST" if body else "GET", f"/llm{path}", body or None, {"Authorization": f"Bearer {key}"})


def test_who_may_ask_and_where(other: Server) -> None:
    assert other.get("/llm/health").status in (200, 503) and other.get("/health").status == 404
    assert ask(other, "/props", key="third").status == 401 and ask(other, "/props", key="first").status == 200
    assert ask(other, "/slots").status == ask(other, "/metrics").status == 501
    assert other.get("/llm/", Accept="text/html").body == "Ollama is running"


def test_what_models_are_called(other: Server) -> None:
    for path in ("/models", "/v1/models"):
        (model,) = ask(other, path).body["data"]
        assert (model["id"], model["aliases"], model["tags"]) == ("main", ["main", "two"], ["chat", "small"])
    assert ask(other, "/v1/completions", model="gpt-4", prompt="a", max_tokens=1).body["model"] == "main"


def test_what_requests_leave_open(other: Server) -> None:
    found = ask(other, "/completion", prompt="Hello").body
    settings = found["generation_settings"]
    assert (settings["n_predict"], settings["seed"], settings["temperature"]) == (90, 7, 0)
    assert settings["ignore_eos"] and all(entry["bias"] is None for entry in settings["logit_bias"])
    # the context is 64 tokens: what is oldest was forgotten
    assert (found["timings"]["predicted_n"], found["truncated"], found["stop_type"]) == (90, True, "limit")
    assert ask(other, "/completion", prompt="Hello", n_predict=100).body["timings"]["predicted_n"] == 100
    mine = ask(other, "/completion", prompt="Hello", n_predict=3, temperature=1, ignore_eos=False).body
    assert mine["generation_settings"]["temperature"] == 1 and mine["timings"]["predicted_n"] <= 3
    defaults = ask(other, "/props").body["default_generation_settings"]
    assert (defaults["params"]["seed"], defaults["params"]["n_predict"], defaults["n_ctx"]) == (7, 90, 64)


def test_what_the_model_reads_is_told(other: Server) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    told = ask(other, "/v1/chat/completions", **chat).body["__verbose"]
    assert "[user] Hello" in told["prompt"] and told["tokens_predicted"] == len(told["tokens"]) == 2
    assert "__verbose" not in ask(other, "/v1/chat/completions", **chat, verbose=False).body


def test_one_that_sleeps_is_not_woken_by_questions(other: Server) -> None:
    assert ask(other, "/completion", prompt="Hello", n_predict=1, keep_alive=0).status == 200
    while not (asleep := ask(other, "/props").body)["is_sleeping"]:
        pass
    assert ask(other, "/models").body["data"][0]["status"]["value"] == "unloaded"
    assert ask(other, "/tokenize", content="Hello").status == 200
    awake = ask(other, "/props").body
    assert asleep == {**awake, "is_sleeping": True}


def test_tokens_of_what_would_be_asked(server: Server) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    n = server.post("/v1/chat/completions", messages=messages, max_tokens=1).body["usage"]["prompt_tokens"]
    for path, body in (("chat/completions", {"messages": messages}), ("responses", {"input": "Hello"})):
        for prefix in ("", "/v1"):
            assert server.post(f"{prefix}/{path}/input_tokens", **body).body["input_tokens"] == n


def test_probabilities_as_tokens_are_drawn(server: Server) -> None:
    def probabilities(**body: Any) -> list[dict[str, Any]]:
        asked = {"prompt": "Hello", "n_predict": 4, "ignore_eos": True, "n_probs": 10, "seed": 1, **body}
        found: list[dict[str, Any]] = server.post("/completion", **asked).body["completion_probabilities"]
        return found

    filtered = {"top_k": 3, "top_p": 1, "min_p": 0, "temperature": 0.5}
    plain, drawn = probabilities(**filtered), probabilities(**filtered, post_sampling_probs=True)
    for as_it_is, token in zip(plain, drawn, strict=True):
        # of the three likeliest, sharpened: e^(logit / 0.5), and nothing else
        best = [top["logprob"] for top in as_it_is["top_logprobs"][:3]]
        weights = [math.exp(2 * logprob) for logprob in best]
        wanted = [weight / sum(weights) for weight in weights]
        assert [top["prob"] for top in token["top_probs"]] == pytest.approx(wanted, abs=1e-4)
        assert token["prob"] in [top["prob"] for top in token["top_probs"]]
    (certain,) = probabilities(n_predict=1, temperature=0, post_sampling_probs=True)
    assert certain["prob"] == 1


def test_a_preflight_says_what_pages_may_do(server: Server) -> None:
    answer = server.ask("OPTIONS", "/v1/completions", headers={"Origin": "http://example.org"})
    assert answer.status == 200 and "access-control-allow-origin" not in answer.headers

"""llama-server's routes: section 7 of wire.md, each test by its statement's number."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.serving import Server  # noqa: E402
from tests.test_server_openai import TOOLS, USER, saying  # noqa: E402

PATH = "/completion"


def complete(server: Server, **body: Any) -> Any:
    answer = server.post(PATH, **{"n_predict": 4, "ignore_eos": True, **body})
    assert answer.status == 200, answer
    return answer.body


def refused(server: Server, path: str, status: int = 400, **body: Any) -> Any:
    answer = server.post(path, **body)
    assert answer.status == status, answer
    assert answer.body["error"]["code"] == status  # 7.10
    return answer.body["error"]


def test_7_01_health(server: Server) -> None:
    while (answer := server.get("/health")).status != 200:
        assert (answer.status, answer.body["error"]["code"]) == (503, 503)
        assert answer.body["error"]["message"] == "Loading model"
        assert answer.body["error"]["type"] == "unavailable_error"
    assert answer.body == server.get("/v1/health").body == {"status": "ok"}


def test_7_02_props(server: Server) -> None:
    found = server.get("/props").body
    assert {
        "default_generation_settings", "total_slots", "model_path", "model_alias", "chat_template",
        "chat_template_caps", "modalities", "build_info", "is_sleeping",
    } <= set(found)  # fmt: skip
    assert found["default_generation_settings"]["n_ctx"] == 8192
    assert "temperature" in found["default_generation_settings"]["params"]
    assert not any(found["modalities"].values())
    refused(server, "/props", 501, x=1)


def test_7_03_slots(server: Server) -> None:
    idle = server.get("/slots").body
    assert len(idle) == 32
    assert not any(slot["is_processing"] for slot in idle)
    events = server.events(PATH, prompt="Hello", n_predict=3000, ignore_eos=True)
    next(events)
    busy = server.get("/slots").body[0]
    events.close()
    assert busy["is_processing"]
    assert {
        "id", "n_ctx", "speculative", "id_task", "n_prompt_tokens", "n_prompt_tokens_processed",
        "n_prompt_tokens_cache", "params", "next_token",
    } <= set(busy)  # fmt: skip
    assert busy["next_token"][0]["n_decoded"] + busy["next_token"][0]["n_remain"] == 3000


def test_7_04_completion(server: Server) -> None:
    whole = complete(server, prompt="Hello", return_tokens=True, ignore_eos=True)
    assert {
        "content", "tokens", "stop", "id_slot", "model", "tokens_predicted", "tokens_evaluated", "generation_settings",
        "prompt", "has_new_line", "truncated", "stop_type", "stopping_word", "tokens_cached", "timings",
    } <= set(whole)  # fmt: skip
    assert (whole["stop"], whole["stop_type"], whole["tokens_predicted"], len(whole["tokens"])) == (True, "limit", 4, 4)
    assert complete(server, prompt="Hello")["tokens"] == []
    assert complete(server, prompt="Hello", **{**saying("abc"), "n_predict": 20})["stop_type"] == "eos"
    stopped = complete(server, prompt="Hello", stop=["c"], **{**saying("abcd"), "n_predict": 20})
    assert (stopped["stop_type"], stopped["stopping_word"], stopped["content"]) == ("word", "c", "ab")
    likely = complete(server, prompt="Hello", n_probs=3, ignore_eos=True)["completion_probabilities"]
    assert len(likely) == 4
    assert {"id", "token", "bytes", "logprob", "top_logprobs"} <= set(likely[0])
    assert len(likely[0]["top_logprobs"]) == 3
    picked = complete(server, prompt="Hello", response_fields=["content", "timings/prompt_n", "nothing"])
    assert set(picked) == {"content", "timings/prompt_n"}
    chunks = server.stream(PATH, prompt="Hello", n_predict=4, seed=1, ignore_eos=True)
    assert "[DONE]" not in chunks
    for chunk in chunks[:-1]:
        assert {"index", "content", "tokens", "stop", "id_slot", "tokens_predicted", "tokens_evaluated"} <= set(chunk)
        assert chunk["stop"] is False
    assert chunks[-1]["stop"] is True and chunks[-1]["content"] == ""
    assert "".join(chunk["content"] for chunk in chunks) == complete(server, prompt="Hello", seed=1)["content"]


def test_7_05_prompts(server: Server) -> None:
    mixed = complete(server, prompt=[1, 2, "Hello", 3])
    assert mixed["tokens_evaluated"] > 4
    for prompts in (["Hello", "you"], ["Hello", [1, 2, 3]], [[1, 2], [1, "x"]]):
        answers = complete(server, prompt=prompts)
        assert [answer["index"] for answer in answers] == [0, 1]
    for wrong in (None, 7, [], {}, [1, True], [None], [1, [2]]):
        refused(server, PATH, prompt=wrong)


def test_7_06_tokens_and_templates(server: Server) -> None:
    ids = server.post("/tokenize", content="Hé").body["tokens"]
    assert server.post("/detokenize", tokens=ids).body["content"] == "Hé"
    pieces = server.post("/tokenize", content="é", with_pieces=True).body["tokens"]
    assert b"".join(bytes(one["piece"]) for one in pieces) == "é".encode()
    with_bos = server.post("/tokenize", content="Hé", add_special=True).body["tokens"]
    assert with_bos[1:] == ids
    special = server.post("/tokenize", content="<|bos|>").body["tokens"]
    assert special == with_bos[:1]
    assert len(server.post("/tokenize", content="<|bos|>", parse_special=False).body["tokens"]) > 1
    prompt = server.post("/apply-template", messages=USER, tools=TOOLS).body["prompt"]
    assert "[tools]" in prompt and prompt.endswith("[user] Hello[assistant]")
    refused(server, "/tokenize", content=7)
    refused(server, "/detokenize", tokens=[99999])


def test_7_07_filling_in(server: Server) -> None:
    def infill(**body: Any) -> Any:
        answer = server.post("/infill", n_predict=4, **{"input_prefix": "ab", "input_suffix": "yz", **body})
        assert answer.status == 200, answer
        return answer.body

    plain = infill()
    assert plain["tokens_evaluated"] >= 3 + 2 + 2
    assert infill(prompt="cd")["tokens_evaluated"] > plain["tokens_evaluated"]
    extra = infill(input_extra=[{"filename": "a.py", "text": "abcdefg"}])
    assert extra["tokens_evaluated"] > plain["tokens_evaluated"]
    long = infill(input_prefix="q w e " * 9000, input_suffix="z" * 20000, input_extra=[{"text": "x y z " * 9000}])
    assert long["tokens_evaluated"] <= 8192 - 4
    refused(server, "/infill", input_prefix="x")
    completed = server.post("/v1/completions", prompt="ab", suffix="yz", max_tokens=1).body
    assert completed["usage"]["prompt_tokens"] == plain["tokens_evaluated"]
    assert server.post("/v1/completions", prompt=[1], suffix="yz").status == 400


def test_7_08_metrics(server: Server) -> None:
    complete(server, prompt="Hello")
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(re.findall(r"^([a-z_:]+) ([\d.e+-]+)$", answer.body, re.MULTILINE))
    for name in (
        "prompt_tokens_total", "prompt_tokens_cached_total", "prompt_seconds_total", "tokens_predicted_total",
        "tokens_predicted_seconds_total", "n_decode_total", "n_tokens_max", "prompt_tokens_seconds",
        "predicted_tokens_seconds", "requests_processing", "requests_deferred", "n_busy_slots_per_decode",
    ):  # fmt: skip
        assert f"llamacpp:{name}" in values
    assert float(values["llamacpp:tokens_predicted_total"]) > 0
    for name in ("time_to_first_token", "time_between_tokens", "queue", "step"):
        assert f'ggrun:{name}_seconds_bucket{{le="+Inf"}}' in answer.body
    assert "ggrun:step_tokens_bucket" in answer.body
    assert {"ggrun:pages_held", "ggrun:pages_cached", "ggrun:pages", "ggrun:preemptions_total"} <= set(values)
    assert {"ggrun:requests_cancelled_total", "ggrun:requests_failed_total"} <= set(values)


def test_7_09_models_and_adapters(server: Server) -> None:
    def state() -> str:
        (model,) = server.get("/models").body["data"]
        return str(model["status"]["value"])

    assert server.post("/models/unload", model="served").body["success"]
    assert state() == "unloaded"
    assert server.post("/models/load", model="served").body["success"]
    assert state() == "loaded"
    assert server.get("/props?model=served").body["model_alias"] == "served"
    assert server.get("/props?model=nobody").status == 404
    assert server.get("/lora-adapters").body == []
    refused(server, "/models/load", 404, model="nobody")


def test_7_10_errors(server: Server) -> None:
    assert refused(server, PATH, prompt="x", n_predict="many")["type"] == "invalid_request_error"
    told = refused(server, PATH, prompt=[9] * 9000)
    assert told["type"] == "exceed_context_size_error"
    assert (told["n_prompt_tokens"], told["n_ctx"]) == (9000, 8192)

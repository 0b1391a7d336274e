"""OpenAI's routes: sections 2 and 3 of wire.md, each test by its statement's number, and the openai package on them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from gguf_runtime import LLM  # noqa: E402
from tests.serving import Server  # noqa: E402

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "Hello"}]


def saying(regex: str, **more: Any) -> dict[str, Any]:
    """Has the model say what this matches."""
    return {"structured_outputs": {"regex": regex}, "temperature": 0, **more}


def chat(server: Server, **body: Any) -> Any:
    answer = server.post(CHAT, **{"messages": USER, "max_tokens": 8, "seed": 1, **body})
    assert answer.status == 200, answer
    return answer.body


def message(server: Server, **body: Any) -> Any:
    return chat(server, **body)["choices"][0]["message"]


def stream(server: Server, **body: Any) -> list[Any]:
    return server.stream(CHAT, **{"messages": USER, "max_tokens": 8, "seed": 1, **body})


def refused(server: Server, path: str = CHAT, **body: Any) -> Any:
    answer = server.post(path, **({"messages": USER} if path == CHAT else {}), **body)
    assert answer.status == 400, answer
    return answer.body["error"]


def deltas(chunks: list[Any], index: int = 0) -> list[Any]:
    choices = [chunk["choices"][0] for chunk in chunks if chunk != "[DONE]" and chunk["choices"]]
    return [choice["delta"] for choice in choices if choice["index"] == index]


def content(chunks: list[Any], index: int = 0) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(chunks, index))


def test_2_01_whole(server: Server) -> None:
    answer = chat(server)
    assert re.fullmatch(r"chatcmpl-\w+", answer["id"])
    assert answer["object"] == "chat.completion"
    assert isinstance(answer["created"], int)
    assert {"model", "system_fingerprint", "usage"} <= set(answer)
    choice = answer["choices"][0]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["message"]["refusal"] is None
    assert server.post("/chat/completions", messages=USER, max_tokens=1).status == 200


def test_2_02_to_2_04_chunks(server: Server) -> None:
    chunks = stream(server)
    assert chunks.pop() == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(len({chunk[name] for chunk in chunks}) == 1 for name in ("id", "created", "model"))
    first, *others = deltas(chunks)
    assert first == {"role": "assistant", "content": None}
    assert not any("role" in delta for delta in others)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert others[-1] == {}


def test_2_05_reasons(server: Server) -> None:
    assert chat(server, **saying("ab"))["choices"][0]["finish_reason"] == "stop"
    assert chat(server, **saying("ab+c", max_tokens=1))["choices"][0]["finish_reason"] == "length"
    assert chat(server, **saying("abcd"), stop="c")["choices"][0]["finish_reason"] == "stop"
    near_the_end = server.post(TEXT, prompt=[9] * 8190, ignore_eos=True).body
    assert near_the_end["choices"][0]["finish_reason"] == "length"
    assert near_the_end["usage"]["completion_tokens"] == 2  # 2.16: as many as there is room for


def test_2_06_usage_of_streams(server: Server) -> None:
    *chunks, last, done = stream(server, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8
    assert all(chunk.get("usage") is None and chunk["choices"] for chunk in chunks)
    assert all(chunk.get("usage") is None for chunk in stream(server)[:-1])


def test_2_07_usage(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "a b c " * 60}]}
    chat(server, **body)
    usage = chat(server, **body, n=2)["usage"]
    assert usage["prompt_tokens"] > 64
    assert usage["completion_tokens"] == 16
    assert usage["total_tokens"] == usage["prompt_tokens"] + 16
    assert 64 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    thinking = chat(server, **saying("<think>abc</think>de", max_tokens=50))["usage"]
    assert 3 <= thinking["completion_tokens_details"]["reasoning_tokens"] < thinking["completion_tokens"]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """A function whose arguments can only be these."""
    constant = {key: {"const": value} for key, value in properties.items()}
    schema = {"type": "object", "properties": constant, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [tool("weather", city="Ghent, \"B\"", days=3), tool("nothing")]


def calling(name: str) -> dict[str, Any]:
    choice = {"type": "function", "function": {"name": name}}
    return {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 400}


def test_2_08_to_2_11_calls_in_streams(server: Server) -> None:
    for name, expected in (("weather", {"city": 'Ghent, "B"', "days": 3}), ("nothing", {})):
        whole = chat(server, **calling(name))["choices"][0]
        assert whole["finish_reason"] == "tool_calls"
        assert whole["message"]["content"] is None
        (call,) = whole["message"]["tool_calls"]
        assert call["type"] == "function" and call["id"]
        assert call["function"]["name"] == name
        assert json.loads(call["function"]["arguments"]) == expected
        chunks = stream(server, **calling(name))
        first, *others = [delta["tool_calls"][0] for delta in deltas(chunks) if "tool_calls" in delta]
        assert first == {
            "index": 0, "id": first["id"], "type": "function", "function": {"name": name, "arguments": ""},
        }  # fmt: skip
        assert all(set(other) == {"index", "function"} and set(other["function"]) == {"arguments"} for other in others)
        pieces = [other["function"]["arguments"] for other in others]
        assert all(pieces)
        assert json.loads("".join(pieces)) == expected
        assert not content(chunks)
        assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_2_05_a_call_that_is_cut_off(server: Server) -> None:
    assert chat(server, **{**calling("weather"), "max_tokens": 12})["choices"][0]["finish_reason"] == "length"


def test_2_12_plain_answers_with_tools(server: Server) -> None:
    chunks = stream(server, tools=TOOLS, seed=1)
    assert len([delta for delta in deltas(chunks) if delta.get("content")]) >= 4


def test_2_23_choices_of_tools(server: Server) -> None:
    required = chat(server, tools=TOOLS, tool_choice="required", max_tokens=400, parallel_tool_calls=False)
    (call,) = required["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] in ("weather", "nothing")
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "nothing"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    calls = message(server, tools=TOOLS, tool_choice=choice, max_tokens=400, parallel_tool_calls=False)["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["nothing"]
    assert "tool_calls" not in message(server, tools=TOOLS, tool_choice="none")
    for wrong in (
        {"tool_choice": "perhaps"}, {"tool_choice": "required"}, {"tools": [{"type": "function"}]},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "unknown"}}},
        {"tools": [{"type": "function", "function": {"name": 7}}]},
        {"tools": [{"type": "custom", "custom": {"name": "patch"}}]},
    ):  # fmt: skip
        refused(server, **wrong)


def test_2_13_no_empty_deltas(server: Server) -> None:
    chunks = stream(server, max_tokens=40, **saying("(é|ü|漢|字){9}"))
    pieces = [text for delta in deltas(chunks)[1:] for text in delta.values()]
    assert pieces and all(pieces)
    assert "\ufffd" not in content(chunks)


def test_2_14_thoughts(server: Server) -> None:
    form = saying("<think>\nab c</think>\n\nde f", max_tokens=60)
    whole = message(server, **form)
    assert (whole["reasoning_content"], whole["reasoning"], whole["content"]) == ("ab c", "ab c", "de f")
    chunks = stream(server, **form)
    assert content(chunks) == "de f"
    for name in ("reasoning_content", "reasoning"):
        assert "".join(delta.get(name, "") for delta in deltas(chunks)) == "ab c"
    left = message(server, **form, reasoning_format="none")
    assert "reasoning_content" not in left
    assert left["content"] == "<think>\nab c</think>\n\nde f"
    thinks: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": True}}
    assert message(server, **saying("ab", max_tokens=60), **thinks)["content"] == "ab"  # the grammar has no thought
    form = {"response_format": {"schema": {"const": 17}}, "reasoning_budget_tokens": 3, "max_tokens": 60}
    thought = message(server, **form, **thinks, ignore_eos=True)
    assert thought["reasoning_content"] and thought["content"].strip() == "17"


def test_2_15_how_much_to_think(server: Server, served_model: Path) -> None:
    def n_prompt(**body: Any) -> int:
        return int(chat(server, max_tokens=1, **body)["usage"]["prompt_tokens"])

    plain = n_prompt()
    thinks = {"chat_template_kwargs": {"enable_thinking": True}}
    assert n_prompt(**thinks) > plain
    assert n_prompt(reasoning_effort="none") == plain
    assert n_prompt(reasoning_effort="high") == plain  # this template takes no such thing
    cut = chat(server, max_tokens=60, reasoning_budget_tokens=5, ignore_eos=True, **thinks)
    assert cut["usage"]["completion_tokens_details"]["reasoning_tokens"] < 20
    assert cut["choices"][0]["message"]["content"]


def test_2_16_limits(server: Server) -> None:
    for name in ("max_tokens", "max_completion_tokens", "n_predict"):
        assert server.post(CHAT, messages=USER, **{name: 3}).body["usage"]["completion_tokens"] == 3
    nothing = chat(server, max_tokens=0)
    assert nothing["choices"][0]["finish_reason"] == "length"
    assert nothing["choices"][0]["message"]["content"] == ""
    assert nothing["usage"]["completion_tokens"] == 0


def test_2_17_too_long(server: Server) -> None:
    for more in ({}, {"stream": True}):
        told = refused(server, TEXT, prompt=[9] * 9000, **more)
        assert told["type"] == "exceed_context_size_error"
        assert told["code"] == "context_length_exceeded"
        assert (told["n_prompt_tokens"], told["n_ctx"]) == (9000, 8192)
        assert "9000" in told["message"] and "8192" in told["message"]


def test_2_18_stop_strings(server: Server) -> None:
    form = saying("hello wor(ld|ks) and more", max_tokens=60)
    assert message(server, **form, stop=" and")["content"] in ("hello world", "hello works")
    for stop in ("rl", ["zz", "ks", "ld"]):
        chunks = stream(server, **form, stop=stop)
        assert content(chunks) in ("hello wo", "hello wor")
    assert content(stream(server, **saying("abcab", max_tokens=60), stop="abd")) == "abcab"  # held back, then given
    refused(server, stop=["x"] * 17)


def test_2_19_several(server: Server) -> None:
    form = {"n": 3, "seed": 5, "temperature": 2.0, "max_tokens": 12, "top_k": 0, "min_p": 0}
    texts = [choice["message"]["content"] for choice in chat(server, **form)["choices"]]
    assert len(set(texts)) == 3
    alone = chat(server, **{**form, "n": 1, "seed": 6})["choices"][0]["message"]["content"]
    assert alone == texts[1]
    chunks = stream(server, **form)
    assert [content(chunks, i) for i in range(3)] == texts
    assert refused(server, n=17)["param"] == "n"
    assert refused(server, n=0)["param"] == "n"


def test_2_20_logprobs(server: Server, served_model: Path) -> None:
    form = {"logprobs": True, "top_logprobs": 4, "temperature": 1.5, "seed": 1, "max_tokens": 6, "ignore_eos": True}
    whole = chat(server, **form)["choices"][0]
    tokens = whole["logprobs"]["content"]
    assert len(tokens) == 6
    with LLM(served_model) as llm:
        ids = llm.prompt_tokens(USER) + [token["id"] for token in tokens]
        logits = llm.logits(ids)[-7:-1].astype("f8")
    for token, row in zip(tokens, logits, strict=True):
        row = row - row.max() - math.log(sum(math.exp(x - row.max()) for x in row))
        assert token["logprob"] == pytest.approx(row[token["id"]], abs=1e-3)
        assert [top["id"] for top in token["top_logprobs"]] == (-row).argsort()[:4].tolist()
        assert bytes(token["bytes"]).decode(errors="replace") == token["token"]
    chunks = stream(server, **form)
    lists = [chunk["choices"][0]["logprobs"] for chunk in chunks[:-1]]
    assert [token for found in lists if found for token in found["content"]] == tokens
    refused(server, top_logprobs=3)
    refused(server, logprobs=True, top_logprobs=21)
    forbidden = chat(server, logprobs=True, top_logprobs=20, logit_bias={"5": False})
    assert "Infinity" not in json.dumps(forbidden)


def test_2_21_formats(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    for form in (
        {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        {"type": "json_object", "schema": schema},
        {"type": "json_schema", "schema": schema},
        {"schema": schema},
    ):
        schema["additionalProperties"] = False
        text = message(server, response_format=form, max_tokens=300, seed=1)["content"]
        assert json.loads(text)["a"] in ("x", "y"), form
    assert message(server, response_format={"type": "text"})["content"]
    for wrong in (
        {"type": "yaml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}},
        {"type": "json_schema", "json_schema": {"schema": {"not": {}}}},
    ):
        refused(server, response_format=wrong)
    tools = [{"type": "function", "function": {"name": "f"}}]
    refused(server, response_format={"type": "json_object"}, tools=tools)
    refused(server, grammar='root ::= "a"', tools=tools)


def test_2_22_json_ends(server: Server) -> None:
    whole = chat(server, response_format={"type": "json_object"}, max_tokens=1000, temperature=0, seed=3)["choices"][0]
    if whole["finish_reason"] == "stop":
        assert whole["message"]["content"].endswith("}")
    fixed = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    whole = chat(server, response_format={"schema": fixed}, max_tokens=300)["choices"][0]
    assert whole["finish_reason"] == "stop"
    assert whole["message"]["content"].endswith("}")
    assert not re.search(r"\s{25}", whole["message"]["content"])


def test_2_24_messages(server: Server) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "Two", "reasoning": "hm"},
        {"role": "user", "content": "Thanks"},
    ]
    assert chat(server, messages=conversation)["usage"]["prompt_tokens"] > 20
    for wrong in (
        [], [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], [{"content": "x"}],
        [{"role": "king", "content": "x"}], ["x"], [{"role": "user", "content": 7}],
    ):  # fmt: skip
        answer = server.post(CHAT, messages=wrong)
        assert answer.status == 400, wrong
    assert "image_url" in server.post(CHAT, messages=[{"role": "user", "content": [{"type": "image_url"}]}]).body[
        "error"
    ]["message"]  # fmt: skip


def test_2_25_an_answer_that_was_begun(server: Server, served_model: Path) -> None:
    begun = [*USER, {"role": "assistant", "content": "I am"}]
    with LLM(served_model) as llm:
        expected = llm.generate(llm.render(USER) + "I am", temperature=0, max_tokens=6)
    for more in ({}, {"add_generation_prompt": False, "continue_final_message": True}):
        assert message(server, messages=begun, temperature=0, max_tokens=6, **more)["content"] == expected
    refused(server, add_generation_prompt=True, continue_final_message=True)


def test_2_26_biases(server: Server) -> None:
    form = {"temperature": 0, "logprobs": True, "max_tokens": 2}

    def first(**body: Any) -> int:
        return int(chat(server, **form, **body)["choices"][0]["logprobs"]["content"][0]["id"])

    best = first()
    assert first(logit_bias={"77": 100}) == 77
    assert first(logit_bias=[[77, 100]]) == 77
    assert first(logit_bias={str(best): -100}) != best
    assert first(logit_bias=[[best, False]]) != best
    assert message(server, logit_bias=[["Z", 100]], temperature=0, max_tokens=3)["content"] == "ZZZ"


def test_2_27_seeds_and_what_is_ignored(server: Server) -> None:
    form = {"seed": 7, "temperature": 1.5, "max_tokens": 12}
    ignored = {
        "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prompt_cache_key": "k",
        "safety_identifier": "s", "verbosity": "low", "id_slot": 3,
    }  # fmt: skip
    assert message(server, **form)["content"] == message(server, **form, **ignored)["content"]
    assert message(server, **{**form, "seed": 7 + (1 << 40)})["content"]


def test_2_28_timings_and_progress(server: Server) -> None:
    names = {
        "cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second", "predicted_n", "predicted_ms",
        "predicted_per_token_ms", "predicted_per_second",
    }  # fmt: skip
    for max_tokens in (1, 8):
        timings = chat(server, max_tokens=max_tokens)["timings"]
        assert set(timings) == names
        assert all(math.isfinite(value) for value in timings.values())
        assert timings["predicted_n"] == max_tokens
    for more in ({}, {"stream_options": {"include_usage": True}}):
        assert set(stream(server, **more)[-2]["timings"]) == names
    chunks = stream(server, timings_per_token=True)[1:-2]
    told = [chunk["timings"]["predicted_n"] for chunk in chunks]
    assert told and told == sorted(told)
    long = [{"role": "user", "content": "q w e r t z " * 250}]
    chunks = stream(server, messages=long, return_progress=True)[:-1]
    steps = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert steps
    assert all(step["cache"] <= step["processed"] <= step["total"] for step in steps)
    cold = chat(server, messages=long, cache_prompt=False)
    assert cold["timings"]["cache_n"] == 0


def test_2_29_of_vllm(server: Server) -> None:
    assert message(server, structured_outputs={"choice": ["yes", "no"]})["content"].strip('"') in ("yes", "no")
    assert message(server, guided_regex="x{3}y")["content"] == "xxxy"
    assert message(server, structured_outputs={"grammar": 'root ::= "q" "r"'})["content"] == "qr"
    assert chat(server, ignore_eos=True, max_tokens=20)["usage"]["completion_tokens"] == 20
    first = chat(server, temperature=0, logprobs=True)["choices"][0]["logprobs"]["content"][0]["id"]
    assert chat(server, temperature=0, stop_token_ids=[first])["usage"]["completion_tokens"] == 0
    salted = {"messages": [{"role": "user", "content": "salt " * 80}], "priority": 3, "min_p": 0.1}
    chat(server, **salted, cache_salt="a")
    assert chat(server, **salted, cache_salt="a")["timings"]["cache_n"] > 0
    assert chat(server, **salted, cache_salt="b")["timings"]["cache_n"] == 0


def test_2_30_errors(server: Server) -> None:
    told = server.post(CHAT, messages=USER, model="nobody").body["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert (told["type"], told["code"]) == ("not_found_error", "model_not_found")
    assert refused(server, temperature=-1)["type"] == "invalid_request_error"


def test_3_01_completions(server: Server) -> None:
    one = server.post(TEXT, prompt="ab", max_tokens=3, temperature=0).body
    assert one["object"] == "text_completion"
    assert one["id"].startswith("cmpl-")
    assert set(one["choices"][0]) == {"text", "index", "logprobs", "finish_reason"}
    ids = [1, 2, 3]
    for prompt, n in ((["ab", "cd"], 2), (ids, 1), ([ids, [4, 5]], 2)):
        answer = server.post(TEXT, prompt=prompt, max_tokens=2, n=2, temperature=0).body
        assert [choice["index"] for choice in answer["choices"]] == list(range(2 * n))
    both = server.post(TEXT, prompt=["zz", "ab"], max_tokens=3, temperature=0).body["choices"]
    assert both[1]["text"] == one["choices"][0]["text"]
    chunks = server.stream(TEXT, prompt=["zz", "ab"], max_tokens=3, temperature=0)
    assert chunks.pop() == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    joined = ["".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == i) for i in (0, 1)]
    assert joined == [choice["text"] for choice in both]
    echoed = server.post(TEXT, prompt="ab", max_tokens=3, temperature=0, echo=True).body["choices"][0]["text"]
    assert echoed == "ab" + one["choices"][0]["text"]
    filled = server.post(TEXT, prompt="ab", suffix="yz", max_tokens=3).body
    assert filled["usage"]["prompt_tokens"] >= 5
    old = server.post(TEXT, prompt="ab", max_tokens=3, logprobs=2).body["choices"][0]["logprobs"]
    assert [len(old[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [3] * 4
    best = server.post(TEXT, prompt="ab", max_tokens=3, best_of=3, n=1).body["choices"]
    assert len(best) == 1
    assert refused(server, TEXT, prompt="ab", best_of=1, n=2)["param"] == "best_of"
    for wrong in ([], 7, [[]], ["a", 1.5], {}):
        refused(server, TEXT, prompt=wrong)


def test_3_02_ids_of_another_vocabulary(server: Server) -> None:
    told = refused(server, TEXT, prompt=[100, 99999])
    assert "99999" in told["message"] and "cl100k" in told["message"]


def test_3_03_models(server: Server) -> None:
    server.post(CHAT, messages=USER, max_tokens=1)
    found = server.get("/v1/models").body
    assert found["object"] == "list"
    (model,) = found["data"]
    assert model["object"] == "model"
    assert {"id", "created", "owned_by", "meta", "aliases", "tags", "max_model_len"} <= set(model)
    assert {"vocab_type", "n_vocab", "n_ctx_train", "n_embd", "n_params", "size"} <= set(model["meta"])
    for name in (model["id"], "other/name:tag", "other%2Fname%3Atag"):
        assert server.get(f"/v1/models/{name}").body["id"] == model["id"]
    assert server.post(CHAT, model="other/name:tag", messages=USER, max_tokens=1).status == 200
    missing = server.get("/v1/models/nobody")
    assert missing.status == 404
    assert missing.body["error"]["code"] == "model_not_found"


def test_the_openai_package(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    said = {"structured_outputs": {"regex": "<think>ab</think>c d e"}}
    form: dict[str, Any] = {"model": "served", "messages": USER, "extra_body": said}
    whole = client.chat.completions.create(**form).choices[0]
    with client.chat.completions.stream(**form) as events:
        final = events.get_final_completion().choices[0]
    for choice in (whole, final):
        assert (choice.message.content, choice.message.reasoning, choice.finish_reason) == ("c d e", "ab", "stop")
    assert [model.id for model in client.models.list()] == ["served"]
    assert client.completions.create(model="served", prompt="ab", max_tokens=2).choices[0].text
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="served", prompt=[9] * 9000)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=USER)

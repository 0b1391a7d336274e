"""Anthropic's routes: section 5 of wire.md, each test by its statement's number, and the anthropic package on them."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.serving import Server  # noqa: E402
from tests.test_server_openai import TOOLS as OPENAI_TOOLS  # noqa: E402
from tests.test_server_openai import USER, saying  # noqa: E402

PATH = "/v1/messages"
TOOLS = [
    {"name": tool["function"]["name"], "description": "d", "input_schema": tool["function"]["parameters"]}
    for tool in OPENAI_TOOLS
]
BODY: dict[str, Any] = {"model": "served", "messages": USER, "max_tokens": 6}
CALL = {
    "tools": TOOLS,
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "max_tokens": 400,
}


def ask(server: Server, **body: Any) -> Any:
    answer = server.post(PATH, **{**BODY, **body})
    assert answer.status == 200, answer
    return answer.body


def refused(server: Server, status: int = 400, **body: Any) -> str:
    answer = server.post(PATH, **{**BODY, **body})
    assert answer.status == status, answer
    assert answer.body["type"] == "error"
    assert answer.body["request_id"] == answer.headers["request-id"]
    return str(answer.body["error"]["type"])


def n_input(usage: dict[str, int]) -> int:
    return usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_5_01_headers(server: Server) -> None:
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "x,y", "x-api-key": "any"}
    assert server.ask("POST", f"{PATH}?beta=true", BODY, headers).status == 200


def test_5_02_bodies(server: Server) -> None:
    blocks = [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]
    same = ask(server, messages=[{"role": "user", "content": blocks}])
    assert n_input(same["usage"]) == n_input(ask(server)["usage"])
    conversation = [
        {"role": "user", "content": blocks},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ghent"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True,
             "content": [{"type": "text", "text": "no"}]},
            {"type": "text", "text": "Well?"},
        ]},
    ]  # fmt: skip
    system = [{"type": "text", "text": "Be brief."}]
    assert n_input(ask(server, messages=conversation, system=system, tools=TOOLS)["usage"]) > 60
    for wrong in (
        {"messages": []}, {"messages": "hi"}, {"messages": [{"role": "king", "content": "x"}]}, {"max_tokens": 0},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, {"system": 7},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]},
    ):  # fmt: skip
        assert refused(server, **wrong) == "invalid_request_error", wrong
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    for block in (image, {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}):
        answer = server.post(PATH, **BODY | {"messages": [{"role": "user", "content": [block]}]})
        assert answer.status == 400 and "'image'" in answer.body["error"]["message"], answer
    absent = {name: value for name, value in BODY.items() if name != "max_tokens"}
    assert server.post(PATH, **absent, stop_sequences=["e", " "]).status == 200
    assert server.post(PATH, model="served", messages=USER, stop_sequences=["e", " "]).status == 200


def test_5_03_tools(server: Server) -> None:
    server_tool = {"type": "web_search_20250305", "name": "web_search"}
    called = ask(server, **{**CALL, "tools": [server_tool, *TOOLS]})
    (block,) = called["content"]
    assert (block["type"], block["name"]) == ("tool_use", "weather")
    assert block["id"].startswith("toolu_")
    assert block["input"] == {"city": 'Ghent, "B"', "days": 3}
    assert called["stop_reason"] == "tool_use"
    any_tool = {"type": "any", "disable_parallel_tool_use": True}
    forced = ask(server, tools=TOOLS[1:], tool_choice=any_tool, max_tokens=400)
    assert forced["content"][0]["input"] == {}
    assert ask(server, tools=TOOLS, tool_choice={"type": "none"})["stop_reason"] == "max_tokens"
    refused(server, tools=TOOLS, tool_choice={"type": "perhaps"})
    thinking = ask(server, thinking={"type": "enabled", "budget_tokens": 1024})["content"]
    assert [block["type"] for block in thinking] == ["thinking"]
    assert ask(server, thinking={"type": "disabled"})["content"][0]["type"] == "text"
    assert ask(server, thinking={"type": "adaptive"}, top_k=5)


def test_5_04_and_5_05_answers(server: Server) -> None:
    answer = ask(server)
    assert {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"} <= set(answer)
    assert answer["id"].startswith("msg_")
    assert (answer["type"], answer["role"]) == ("message", "assistant")
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("max_tokens", None)
    long = [{"role": "user", "content": "a b c d " * 60}]
    first = ask(server, messages=long)["usage"]
    again = ask(server, messages=long)["usage"]
    assert n_input(first) == n_input(again)
    assert again["cache_read_input_tokens"] > 64 > again["input_tokens"]
    said = {**saying("abcd"), "max_tokens": 20}
    assert ask(server, **said)["stop_reason"] == "end_turn"
    stopped = ask(server, **said, stop_sequences=["zz", "c"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "c")
    assert stopped["content"] == [{"type": "text", "text": "ab"}]
    full = ask(server, messages=[{"role": "user", "content": "z" * 8150}], max_tokens=9000, ignore_eos=True)
    assert full["stop_reason"] == "model_context_window_exceeded"


def test_5_06_to_5_09_events(server: Server) -> None:
    form = {**saying("<think>ab</think>cd"), "max_tokens": 60}
    connection, response = server.send("POST", PATH, {**BODY, **form, "stream": True})
    events = []
    for block in response.read().decode().strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    connection.close()
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert events[0]["message"]["content"] == [] and events[0]["message"]["usage"]
    assert events[-2]["usage"]["output_tokens"] > 4
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    blocks = [event for event in events if event["type"].startswith("content_block")]
    starts = [event["content_block"] for event in blocks if event["type"] == "content_block_start"]
    assert starts == [{"type": "thinking", "thinking": "", "signature": ""}, {"type": "text", "text": ""}]
    assert [event["index"] for event in blocks] == sorted(event["index"] for event in blocks)
    deltas = [event["delta"] for event in blocks if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "ab"
    assert "".join(delta.get("text", "") for delta in deltas) == "cd"
    assert {"type": "signature_delta", "signature": ""} in deltas
    called = server.stream(PATH, **{**BODY, **CALL})
    (start,) = [event["content_block"] for event in called if event["type"] == "content_block_start"]
    assert start["input"] == {} and start["name"] == "weather"
    pieces = [event["delta"]["partial_json"] for event in called if event["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == {"city": 'Ghent, "B"', "days": 3}


def test_5_10_errors(server: Server) -> None:
    assert refused(server, 404, model="nobody") == "not_found_error"
    assert refused(server, messages=[{"role": "user", "content": "z" * 9000}]) == "invalid_request_error"
    assert server.get(PATH).body["type"] == "error"


def test_5_11_counting(server: Server) -> None:
    body = {"model": "served", "messages": USER, "tools": TOOLS, "system": "Be brief."}
    counted = server.post(f"{PATH}/count_tokens", **body).body
    assert counted == {"input_tokens": n_input(ask(server, **body)["usage"])}


def test_5_12_a_line_that_changes_is_left_out(server: Server) -> None:
    def count(*texts: str) -> int:
        system = [{"type": "text", "text": text} for text in texts]
        return int(server.post(f"{PATH}/count_tokens", messages=USER, system=system).body["input_tokens"])

    assert count("x-anthropic-billing-header: cc_version=1; cch=abc;", "Be brief.") == count("Be brief.")


def test_5_13_models(server: Server) -> None:
    found = server.get("/v1/models", **{"anthropic-version": "2023-06-01"}).body
    assert set(found) == {"data", "has_more", "first_id", "last_id"}
    assert {"type", "id", "display_name", "created_at"} <= set(found["data"][0])


def test_the_anthropic_package(server: Server) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0)
    form: dict[str, Any] = {**BODY, "max_tokens": 60, "extra_body": saying("<think>ab</think>c d")}
    whole = client.messages.create(**form)
    with client.messages.stream(**form) as stream:
        final = stream.get_final_message()
    for message in (whole, final):
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert (message.content[0].thinking, message.content[1].text) == ("ab", "c d")
    with client.messages.stream(**BODY | CALL) as stream:
        called = stream.get_final_message()
    assert called.content[0].input == {"city": 'Ghent, "B"', "days": 3}
    assert called.stop_reason == "tool_use"
    assert client.messages.count_tokens(model="served", messages=USER).input_tokens > 5
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**BODY | {"model": "nobody"})

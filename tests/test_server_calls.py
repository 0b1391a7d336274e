"""Streams with thoughts, text and calls, on all routes: wire.md's statements on them, each test by their numbers.

What the model says is known (scripted_model.py), and so what each route has to make of it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.scripted_model import FIRST, FOUND, LOOKING, SECOND  # noqa: E402
from tests.serving import Server  # noqa: E402

SCHEMAS: dict[str, Any] = {
    "get_weather": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    "list_places": {"type": "object", "properties": {}},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()
]
USER: list[Any] = [{"role": "user", "content": "How is the weather?"}]
BOTH = [("get_weather", FIRST), ("get_weather", SECOND)]


def results(n: int) -> list[Any]:
    """A conversation in OpenAI's form, with so many results of calls."""
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "list_places", "arguments": "{}"}} for i in range(n)
    ]
    told = [{"role": "tool", "tool_call_id": f"c{i}", "content": "Ghent"} for i in range(n)]
    return [*USER, {"role": "assistant", "content": "", "tool_calls": calls}, *told]


def test_2_08_to_2_14_deltas(scripted: Server) -> None:
    body: dict[str, Any] = {"messages": USER, "tools": TOOLS}
    message = scripted.post("/v1/chat/completions", **body).body["choices"][0]["message"]
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]] == BOTH
    assert (message["content"], message["reasoning_content"]) == (LOOKING, "Two places.")
    *chunks, done = scripted.stream("/v1/chat/completions", **body)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert all(value for delta in deltas[1:] for value in delta.values())  # 2.13
    for name, whole in (("content", LOOKING), ("reasoning_content", "Two places."), ("reasoning", "Two places.")):
        pieces = [delta[name] for delta in deltas if delta.get(name)]
        assert "".join(pieces) == whole
        assert len(pieces) > 2  # 2.12: plain text comes token by token
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [call["index"] for call in calls] == sorted(call["index"] for call in calls)  # 2.9
    for i, call in enumerate(message["tool_calls"]):
        first, *others = [other for other in calls if other["index"] == i]
        assert first["id"] and first["function"] == {"name": "get_weather", "arguments": ""}  # 2.8
        assert all(set(other) == {"index", "function"} for other in others)
        assert "".join(other["function"]["arguments"] for other in others) == call["function"]["arguments"]  # 2.11
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    *_, call, _, _ = scripted.stream("/v1/chat/completions", messages=results(2), tools=TOOLS)
    assert call["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == "{}"  # 2.10


def test_4_03_to_4_05_events_of_calls(scripted: Server) -> None:
    tools = [{"type": "function", "name": name, "parameters": schema} for name, schema in SCHEMAS.items()]
    events = scripted.stream("/v1/responses", input="Weather?", tools=tools)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    assert [item["type"] for item in final["output"]] == ["reasoning", "message", "function_call", "function_call"]
    for index, (item, (name, arguments)) in enumerate(zip(final["output"][2:], BOTH, strict=True), 2):
        assert item["id"].startswith("fc_") and item["call_id"].startswith("call_") and item["status"] == "completed"
        assert (item["name"], json.loads(item["arguments"])) == (name, arguments)
        mine = [event for event in events if event.get("output_index") == index]
        kinds = [event["type"].removeprefix("response.") for event in mine]
        assert list(dict.fromkeys(kinds)) == [
            "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        ]  # fmt: skip
        assert mine[0]["item"] | {"arguments": item["arguments"], "status": "completed"} == mine[-1]["item"] == item
        assert "".join(event["delta"] for event in mine if "delta" in event) == item["arguments"]
        assert {event["item_id"] for event in mine if "item_id" in event} == {item["id"]}


def test_5_04_to_5_09_blocks(scripted: Server) -> None:
    tools = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
    body: dict[str, Any] = {"messages": USER, "tools": tools, "max_tokens": 900}
    whole = scripted.post("/v1/messages", **body).body
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert [(block["name"], block["input"]) for block in whole["content"][2:]] == BOTH
    events = [event for event in scripted.stream("/v1/messages", **body) if event["type"] != "ping"]
    blocks = [event for event in events if event["type"].startswith("content_block")]
    assert events[0]["type"] == "message_start" and events[-2]["delta"]["stop_reason"] == "tool_use"
    for index, block in enumerate(whole["content"]):
        start, *deltas, stop = [event for event in blocks if event["index"] == index]
        at = blocks.index(start)
        assert blocks[at : at + len(deltas) + 2] == [start, *deltas, stop]  # 5.7: one after the other
        assert (start["type"], stop["type"]) == ("content_block_start", "content_block_stop")
        joined = "".join(value for event in deltas for name, value in event["delta"].items() if name != "type")
        match block["type"]:
            case "tool_use":
                assert start["content_block"]["input"] == {} and json.loads(joined) == block["input"]
                assert start["content_block"]["id"].startswith("toolu_")
            case kind:
                assert start["content_block"][kind] == "" and joined == block[kind]


def test_6_03_and_6_06_lines(scripted: Server) -> None:
    connection, response = scripted.send("POST", "/api/chat", {"model": "scripted", "messages": USER, "tools": TOOLS})
    *lines, last = [json.loads(line) for line in response]
    connection.close()
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == BOTH
    assert [call["function"]["index"] for call in calls] == [0, 1]
    assert not any("type" in call for call in calls)
    assert "".join(line["message"].get("thinking", "") for line in lines) == "Two places."
    assert "".join(line["message"]["content"] for line in lines) == LOOKING
    assert (last["message"], last["done_reason"]) == ({"role": "assistant", "content": ""}, "stop")
    told = [{"role": "tool", "tool_name": "list_places", "content": "Ghent"}] * 3
    answer = scripted.post("/api/chat", model="scripted", messages=[*USER, *told], tools=TOOLS, stream=False).body
    assert answer["message"]["content"] == FOUND

"""OpenAI's responses: section 4 of wire.md, each test by its statement's number, and the openai package on them."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.serving import Server  # noqa: E402

PATH = "/v1/responses"
SAID = {"structured_outputs": {"regex": "<think>ab c</think>de f"}}
CODEX = {
    "model": "served",
    "instructions": "You are Codex.",
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
    "tools": [
        {"type": "function", "name": "shell", "description": "d", "strict": False, "parameters": {"type": "object"}},
        {"type": "web_search"}, {"type": "custom", "name": "apply_patch"}, {"type": "local_shell"},
        {"type": "namespace", "name": "n", "tools": []}, {"type": "mcp", "server_label": "m"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k",
    "client_metadata": {"a": "b"},
}  # fmt: skip


def respond(server: Server, **body: Any) -> Any:
    answer = server.post(PATH, **body)
    assert answer.status == 200, answer
    return answer.body


def n_prompt(server: Server, **body: Any) -> int:
    return int(respond(server, max_output_tokens=1, **body)["usage"]["input_tokens"])


def test_4_01_codex(server: Server) -> None:
    events = server.stream(PATH, **CODEX, **{"max_output_tokens": 3})
    assert events[-1]["type"] == "response.incomplete"
    assert respond(server, **{**CODEX, "input": []}, max_output_tokens=1)["status"] == "incomplete"
    assert respond(server, input="", max_output_tokens=1)


def test_4_02_input(server: Server) -> None:
    conversation = [
        {"role": "user", "content": "What is 1 + 1?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "easy"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": '{"a": 2}'},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "3"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Thanks"}]},
    ]
    assert n_prompt(server, input=conversation) > n_prompt(server, input="Thanks") + 30
    for wrong in (
        [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], [{"type": "magic"}], 7, ["x"],
        [{"type": "function_call", "name": "f"}], [{"type": "item_reference", "id": "x"}], [{"content": "x"}],
    ):  # fmt: skip
        answer = server.post(PATH, input=wrong)
        assert (answer.status, answer.body["error"]["type"]) == (400, "invalid_request_error"), wrong
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    text = respond(server, input="x", text=form, max_output_tokens=300)["output"][0]["content"][0]["text"]
    assert json.loads(text) == {"a": 1}


def test_4_03_to_4_05_events(server: Server) -> None:
    connection, response = server.send("POST", PATH, {"input": "Hi", "stream": True, **SAID})
    blocks = response.read().decode().strip().split("\n\n")
    connection.close()
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert list(dict.fromkeys(kinds)) == [
        "created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done", "output_text.delta", "output_text.done",
        "completed",
    ]  # fmt: skip
    for event in events:
        kind = event["type"]
        if "response" in event:
            assert isinstance(event["response"]["output"], list)
            continue
        assert event["output_index"] == ("text" in kind and "reasoning" not in kind) or "part" in kind or "item" in kind
        if "item.added" not in kind and "item.done" not in kind:
            assert event["content_index"] == 0
            assert event["item_id"]
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    final = events[-1]["response"]
    assert [item["id"] for item in final["output"]] == added
    thought, said = final["output"]
    assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "ab c")
    assert (said["type"], said["content"][0]["text"], said["status"]) == ("message", "de f", "completed")
    assert thought["id"].startswith("rs_") and said["id"].startswith("msg_") and final["id"].startswith("resp_")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == "de f"
    assert {
        "object", "created_at", "status", "model", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning",
        "usage", "error", "incomplete_details",
    } <= set(final)  # fmt: skip
    usage = final["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"]["reasoning_tokens"] > 0
    assert "cached_tokens" in usage["input_tokens_details"]


def test_4_03_the_limit(server: Server) -> None:
    answer = respond(server, input="Hi", max_output_tokens=2)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


def test_4_06_going_on(server: Server) -> None:
    first = respond(server, input="Hello there", instructions="Be brief.", **SAID)
    second = respond(server, input="And now?", previous_response_id=first["id"], **SAID)
    alone = n_prompt(server, input="And now?")
    assert second["usage"]["input_tokens"] > alone + 10
    third = respond(server, input="And now?", previous_response_id=second["id"], **SAID)
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]
    assert server.get(f"{PATH}/{first['id']}").body["output"] == first["output"]
    assert server.ask("DELETE", f"{PATH}/{first['id']}").body["deleted"] is True
    for answer in (
        server.get(f"{PATH}/{first['id']}"),
        server.ask("DELETE", f"{PATH}/{first['id']}"),
        server.post(PATH, input="x", previous_response_id=first["id"]),
    ):
        assert answer.status == 404
        assert first["id"] in answer.body["error"]["message"]
    unkept = respond(server, input="x", store=False, max_output_tokens=1)
    assert server.get(f"{PATH}/{unkept['id']}").status == 404


def test_the_openai_package(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    whole = client.responses.create(model="served", input="Hi", extra_body=SAID)
    assert whole.output_text == "de f"
    with client.responses.stream(model="served", input="Hi", extra_body=SAID) as events:
        for _ in events:
            pass
        final = events.get_final_response()
    assert final.output_text == "de f"
    assert final.output[0].content[0].text == "ab c"

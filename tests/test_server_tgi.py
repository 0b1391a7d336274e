"""Text Generation Inference's routes, with huggingface_hub's own client, and the plain chat of tutorials."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.serving import Server  # noqa: E402

PARAMETERS = {"max_new_tokens": 5}


def test_generate(server: Server) -> None:
    answer = server.post("/generate", inputs="Hello", parameters={**PARAMETERS, "details": True}).body
    assert answer["details"]["generated_tokens"] == 5
    assert answer["details"]["finish_reason"] == "length"
    assert {"id", "text", "logprob", "special"} <= set(answer["details"]["tokens"][0])
    listed = server.post("/", inputs="Hello", parameters=PARAMETERS).body
    assert listed == [{"generated_text": answer["generated_text"]}]
    full = server.post("/generate", inputs="Hello", parameters={**PARAMETERS, "return_full_text": True}).body
    assert full["generated_text"] == "Hello" + answer["generated_text"]
    connection, response = server.send("POST", "/generate_stream", {"inputs": "Hello", "parameters": PARAMETERS})
    events = [json.loads(line.removeprefix(b"data:")) for line in response if line.startswith(b"data:")]
    connection.close()
    assert "".join(event["token"]["text"] for event in events).startswith(answer["generated_text"])
    assert [event["generated_text"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["generated_text"] == answer["generated_text"]
    held = {"grammar": {"type": "regex", "value": "ab{2}c"}, "max_new_tokens": 30}
    assert server.post("/generate", inputs="Hello", parameters=held).body["generated_text"] == "abbc"
    stopped = {"grammar": {"type": "regex", "value": "abcd"}, "stop": ["c"], "max_new_tokens": 30, "details": True}
    found = server.post("/generate", inputs="x", parameters=stopped).body
    assert (found["generated_text"], found["details"]["finish_reason"]) == ("ab", "stop_sequence")


def test_info_and_errors(server: Server) -> None:
    info = server.get("/info").body
    assert info["model_id"] == "served"
    assert info["max_total_tokens"] == 8192
    for wrong in ({"inputs": 7}, {}, {"inputs": "x", "parameters": {"temperature": "hot"}}):
        answer = server.post("/generate", **wrong)
        assert (answer.status, answer.body["error_type"]) == (422, "validation")


def test_the_huggingface_hub_package(server: Server) -> None:
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(server.url)
    text = client.text_generation("Hello", max_new_tokens=5)
    assert text
    pieces = list(client.text_generation("Hello", max_new_tokens=5, stream=True))
    assert "".join(pieces).startswith(text)
    detailed = client.text_generation("Hello", max_new_tokens=5, details=True)
    assert detailed.details.generated_tokens == 5
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    assert client.chat_completion(messages, max_tokens=4).choices[0].finish_reason in ("length", "stop")
    chunks = list(client.chat_completion(messages, max_tokens=4, stream=True))
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


def test_plain_chat(server: Server) -> None:
    def ask(message: str, **body: Any) -> tuple[str, str]:
        """The session, and what was said."""
        form = {"structured_outputs": {"regex": "a\nb c"}, **body}
        connection, response = server.send("POST", "/chat", {"message": message, **form})
        assert response.status == 200, response.read()
        events = response.read().decode().split("\n\n")
        connection.close()
        assert events[-2:] == ["data: [DONE]", ""]
        texts = ["\n".join(line.removeprefix("data: ") for line in event.split("\n")) for event in events[:-2]]
        return str(response.getheader("x-session-id")), "".join(texts)

    session, said = ask("Hello", system="Be brief.")
    assert said == "a\nb c"
    ask("More", session_id=session)
    lengths: list[int] = []
    while len(lengths) < 2:
        lengths = [line["n_prompt"] for line in server.log if line["path"] == "/chat" and "n_prompt" in line]
    assert lengths[1] > lengths[0] + 8
    assert server.post("/chat", text="x").status == 400

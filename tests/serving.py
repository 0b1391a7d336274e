"""A server to test, and a plain HTTP client."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import command_line

#: Thinks first where it is asked to; a conversation as plain lines.
TEMPLATE = (
    "{{ bos_token }}{% if tools %}[tools] {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}] {{ m.content or '' }}{% for call in m.tool_calls or [] %}<tool_call>\n"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}\n</tool_call>\n{% endfor %}"
    "\n{% endfor %}{% if add_generation_prompt %}[assistant]{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: Any  # of JSON, else text


class Server:
    """`ggrun serve` in a process of its own, at a port of its own.

    url: where. log: lines of its access log. seconds: for which a client waits."""

    seconds = 60.0

    def __init__(self, *args: object, folder: Path) -> None:
        self.log_file = folder / "access.log"
        line = [*command_line(), "serve", *map(str, args), "--port", "0", "--log", str(self.log_file)]
        self._said = folder / "stderr.txt"
        with self._said.open("wb") as stderr:
            self.process = subprocess.Popen(line, stderr=stderr, stdin=subprocess.DEVNULL)
        while not (found := re.search(r"http://([^ ]+):(\d+)\n", self.said)):
            assert self.process.poll() is None, self.said
            time.sleep(0.01)
        self.host, self.port = found[1], int(found[2])
        self.url = f"http://{self.host}:{self.port}"

    @property
    def said(self) -> str:
        """What it has written to standard error."""
        return self._said.read_text("utf-8")

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.seconds)

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A request, and what comes back, to be read. body: bytes are sent as they are."""
        connection = self.connect()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        return connection, connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection, response = self.send(method, path, body, headers)
        text = response.read().decode()
        connection.close()
        is_json = "/json" in (response.getheader("content-type") or "")
        return Answer(response.status, response.headers, json.loads(text) if is_json and text else text)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, **body: Any) -> Answer:
        return self.ask("POST", path, body)

    def stream(self, path: str, **body: Any) -> list[Any]:
        """The data of an answer's events; what is no JSON as text."""
        return list(self.events(path, **body))

    def events(self, path: str, **body: Any) -> Iterator[Any]:
        connection, response = self.send("POST", path, {"stream": True, **body})
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: "):
                data = line[6:].strip().decode()
                yield json.loads(data) if data.startswith("{") else data
        connection.close()

    def close(self) -> int:
        """End it; gives its exit code. Nothing must have gone wrong in it that it did not tell its clients."""
        self.process.terminate()
        code = self.process.wait(20)
        assert "Traceback" not in self.said and "xception" not in self.said, self.said
        return code

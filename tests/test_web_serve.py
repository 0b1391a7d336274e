"""The web chat on a real server with a real engine, whose answers are compared with the API's own."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from tests.conftest import command_line

if TYPE_CHECKING:
    from tests.chat_page import ChatPage

pytest_plugins = ["tests.chat_page"]
KEY = "sesame"


@pytest.fixture(scope="module")
def url(chat_model: Path) -> Iterator[str]:
    """Of a server with a tiny model, which asks for a key."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*command_line(), "serve", str(chat_model), "--port", str(port), "--api-key", KEY]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address + "health", timeout=5)
                break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def said(url: str, *messages: str) -> str:
    """The API's greedy answer, at once; messages are the user's and the model's in turn."""
    roles = ("user", "assistant")
    listed = [{"role": roles[n % 2], "content": text} for n, text in enumerate(messages)]
    body = json.dumps({"messages": listed, "temperature": 0, "max_tokens": 24}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(url + "v1/chat/completions", body, headers)
    return json.load(urllib.request.urlopen(request, timeout=60))["choices"][0]["message"]["content"]


def test_a_conversation_with_a_model(browser: Any, url: str):
    from tests.chat_page import SIZES

    context = browser.new_context(**SIZES["desktop"])
    chat = open_chat(context, url)
    chat.page.locator("#question input").fill(KEY)
    chat.button("Use it").click()
    chat.page.locator("#model option").first.wait_for(state="attached")
    chat.settings(Temperature="0", Most_tokens="24")
    stored = "(await new Promise((done) => { const open = indexedDB.open('ggrun'); open.onsuccess = () => open.result"
    stored += ".transaction('conversations').objectStore('conversations').getAll().onsuccess = (got) => done(got.target.result); }))[0]"

    def answers() -> list[dict[str, Any]]:
        messages = chat.page.evaluate(f"async () => Object.values({stored}.messages)")
        return [message for message in messages if message["role"] == "assistant"]

    chat.ask("Hello there")
    assert answers()[0]["text"] == said(url, "Hello there")
    chat.ask("More")
    first, second = answers()
    assert second["text"] == said(url, "Hello there", first["text"], "More")
    assert second["tokens"]["cached"] > 0 and second["tokens"]["rate"] > 0 and second["tokens"]["written"] == 24
    assert "cached" in chat.page.locator(".counts").last.inner_text()
    assert chat.page.locator(".note.error").count() == 0 and chat.problems == []
    context.close()


def open_chat(context: Any, url: str) -> ChatPage:
    from tests.chat_page import ChatPage

    return ChatPage(context, url)

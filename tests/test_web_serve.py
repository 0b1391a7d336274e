"""The web chat on a real server with a real engine, whose answers are compared with the API's own."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

pytest_plugins = ["tests.chat_page"]
STORED = """() => new Promise((done) => {
    const opening = indexedDB.open('ggrun');
    opening.onsuccess = () => {
        const table = opening.result.transaction('conversations').objectStore('conversations');
        table.getAll().onsuccess = (event) => done(event.target.result);
    };
})"""


def said(server: Any, *messages: str) -> str:
    """The API's greedy answer, at once; messages are the user's and the model's in turn."""
    roles = ("user", "assistant")
    listed = [{"role": roles[n % 2], "content": text} for n, text in enumerate(messages)]
    body = {"messages": listed, "temperature": 0, "max_tokens": 24}
    return server.ask("POST", "/v1/chat/completions", body).body["choices"][0]["message"]["content"]


def test_a_conversation_with_a_model(browser: Any, server: Any):
    from tests.chat_page import ChatPage

    context = browser.new_context()
    chat = ChatPage(context, server.url + "/")
    chat.settings(Temperature="0", Most_tokens="24")

    def answers() -> list[dict[str, Any]]:
        (conversation,) = chat.page.evaluate(STORED)
        return [message for message in conversation["messages"].values() if message["role"] == "assistant"]

    chat.ask("Hello there")
    assert answers()[0]["text"] == said(server, "Hello there")
    chat.ask("More")
    first, second = answers()
    assert second["text"] == said(server, "Hello there", first["text"], "More")
    assert second["tokens"]["cached"] > 0 and second["tokens"]["rate"] > 0 and second["tokens"]["written"] == 24
    assert "cached" in chat.page.locator(".counts").last.inner_text()
    chat.settings(Most_tokens="100000000")
    chat.send("Without end")
    chat.ended()
    assert chat.page.locator(".note.error").count() <= 1 and chat.problems == []
    context.close()

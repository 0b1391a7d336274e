"""The web chat when things go wrong: keys, errors, lost connections, full storage, and files that are no exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from tests.chat_peer import ChatPeer

if TYPE_CHECKING:
    from tests.chat_page import ChatPage

pytest_plugins = ["tests.chat_page"]


def test_a_key_is_asked_for_kept_and_not_exported(desk: ChatPage, peer: ChatPeer):
    peer.key = "sesame"
    desk.reload()
    desk.page.locator("#question input").fill("wrong")
    desk.button("Use it").click()
    desk.page.get_by_text("missing or wrong").wait_for()
    desk.page.locator("#question input").fill("sesame")
    desk.button("Use it").click()
    desk.page.locator("#model option").first.wait_for(state="attached")
    assert desk.ask("Hi") == "Echo: Hi"
    desk.reload()
    assert desk.ask("Ho") == "Echo: Ho"
    with desk.page.expect_download() as download:
        desk.menu("Export")
    assert "sesame" not in Path(download.value.path()).read_text("utf-8")


def test_what_goes_wrong_is_said_where_it_happened(desk: ChatPage, peer: ChatPeer):
    def note() -> str:
        desk.ended()
        return desk.page.locator(".note").last.inner_text()

    peer.fail(429, "the queue is full.", **{"Retry-After": "3"})
    desk.send("Hi")
    assert "the queue is full. Try again in 3 s." in note()
    peer.say("Part", {"error": {"message": "the engine died"}})
    desk.button("Try again").click()
    assert "the engine died" in note() and desk.answer() == "Part"
    peer.say("Part", finish=None)
    desk.button("Try again").click()
    assert "The connection ended before the answer did." in note()
    peer.say("Part", finish="length")
    desk.button("Try again").click()
    assert "reached its longest length" in note()
    desk.page.route("**/v1/chat/completions", lambda route: route.abort())
    desk.button("Answer again").click()
    assert "The server does not answer." in note()
    desk.page.unroute_all()


def test_a_page_closed_in_mid_answer_keeps_what_came(desk: ChatPage, peer: ChatPeer):
    peer.say("Half ", 1.6, "of it", 30)
    desk.send("Tell")
    desk.page.get_by_text("Half of it").wait_for()
    desk.reload()
    assert desk.answer() == "Half of it" and "Not finished." in desk.page.locator(".note").inner_text()


def test_without_room_or_store_the_chat_goes_on_and_says_so(browser: Any, desk: ChatPage, peer: ChatPeer):
    session = desk.context.new_cdp_session(desk.page)
    session.send("Storage.overrideQuotaForOrigin", {"origin": peer.url.rstrip("/"), "quotaSize": 1})
    assert desk.ask("x" * 100_000).startswith("Echo: x") and "no room left" in desk.notices()
    session.send("Storage.overrideQuotaForOrigin", {"origin": peer.url.rstrip("/")})
    context = browser.new_context()
    for name in ("indexedDB", "localStorage"):
        context.add_init_script(f"Object.defineProperty(window, '{name}', {{get() {{ throw Error() }}}})")
    bare = type(desk)(context, peer.url)
    assert bare.ask("Hi") == "Echo: Hi" and "keeps nothing" in bare.notices()
    context.close()


def exported(**messages: tuple[str, str]) -> str:
    """A file with messages of a role and a parent."""
    listed = {name: {"id": name, "role": role, "parent": parent} for name, (role, parent) in messages.items()}
    return json.dumps({"format": "ggrun-chat", "version": 1, "conversations": [{"messages": listed}]})


def test_a_file_that_is_no_export_is_refused_with_the_reason(desk: ChatPage):
    files = {
        "it is not JSON": "{",
        "it is no export of this chat": '{"format": "other"}',
        "version 2": '{"format": "ggrun-chat", "version": 2}',
        "role": exported(a=("root", "")),
        "no proper id": exported(constructor=("user", "")),
        "one that is not there": exported(a=("user", "x")),
        "in a circle": exported(a=("user", "b"), b=("user", "a")),
    }
    script = """async (text) => {
        const { parseExport } = await import('/assets/files.js');
        try { return parseExport(text); } catch (error) { return error.message; }
    }"""
    for complaint, content in files.items():
        assert complaint in desk.page.evaluate(script, content)

"""The web chat at work: conversations, branches, settings, files; on a scripted server, and on a real one."""

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
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
STORED = """() => new Promise((done) => {
    const opening = indexedDB.open('ggrun');
    opening.onsuccess = () => {
        const table = opening.result.transaction('conversations').objectStore('conversations');
        table.getAll().onsuccess = (event) => done(event.target.result);
    };
})"""
TOOLS = [{"name": "weather", "parameters": {"type": "object"}}]


def sent(peer: ChatPeer) -> list[tuple[str, str]]:
    """Roles and contents of the last request."""
    return [(message["role"], message["content"]) for message in peer.requests[-1]["messages"]]


def test_an_answer_is_shown_as_it_comes_and_stops_at_once(chat: ChatPage, peer: ChatPeer):
    peer.say("One, ", "two", 30, ", three")
    chat.send("Count")
    chat.page.get_by_text("One, two").wait_for()
    assert chat.page.locator(".turn.running").count() == 1
    chat.button("Stop the answer").click()
    assert chat.ended() == "One, two" and "Stopped." in chat.page.locator(".turn.last").inner_text()
    chat.wait(lambda: peer.gone == 1)
    assert chat.ask("Again") == "Echo: Again"
    assert sent(peer) == [("user", "Count"), ("assistant", "One, two"), ("user", "Again")]


def test_answers_again_and_edited_messages_are_branches(chat: ChatPage, peer: ChatPeer):
    peer.say("first")
    chat.ask("Question")
    peer.say("second")
    chat.button("Answer again").click()
    assert chat.ended() == "second" and "2 / 2" in chat.page.locator(".turn.last").inner_text()
    chat.button("Earlier version").click()
    assert chat.answer() == "first"
    chat.ask("More")
    assert sent(peer) == [("user", "Question"), ("assistant", "first"), ("user", "More")]
    chat.page.get_by_role("button", name="Edit the message").first.click()
    chat.field("The message").fill("Another question")
    chat.page.locator(".editor").get_by_role("button", name="Send").click()
    assert chat.ended() == "Echo: Another question" and sent(peer) == [("user", "Another question")]
    chat.page.get_by_role("button", name="Earlier version").first.click()
    assert chat.questions() == ["Question", "More"] and chat.answer() == "Echo: More"
    chat.reload()
    assert chat.questions() == ["Question", "More"]


def test_what_is_asked_in_another_way_stops_the_answer_under_way(desk: ChatPage, peer: ChatPeer):
    peer.say("slow", 30)
    desk.send("Question")
    desk.page.get_by_text("slow").wait_for()
    desk.page.get_by_role("button", name="Edit the message").click()
    desk.field("The message").fill("Other")
    desk.page.locator(".editor").get_by_role("button", name="Send").click()
    assert desk.ended() == "Echo: Other"
    desk.wait(lambda: peer.gone == 1)
    peer.say("slow too", 30)
    desk.button("Answer again").click()
    desk.page.get_by_text("slow too").wait_for()
    desk.page.get_by_role("button", name="Earlier version").first.click()
    assert desk.answer() == "slow" and desk.page.locator(".turn.running").count() == 0


def test_a_draft_waits_where_it_was_written(desk: ChatPage, peer: ChatPeer):
    desk.ask("Hi")
    desk.field("Message").and_(desk.page.locator("textarea")).fill("to be continued")
    desk.button("New conversation").click()
    desk.page.keyboard.type("new")
    desk.button("New conversation").click()
    assert desk.page.locator("#message").input_value() == "new"
    desk.page.locator(".row-button").click()
    assert desk.page.locator("#message").input_value() == "to be continued"
    desk.page.go_back()
    assert desk.page.locator("#message").input_value() == "new"


def test_an_edited_answer_is_what_the_model_is_told_it_said(desk: ChatPage, peer: ChatPeer):
    desk.ask("Colour?")
    desk.button("Edit the answer").click()
    desk.field("The message").fill("Green")
    desk.button("Keep").click()
    assert desk.answer() == "Green" and len(peer.requests) == 1
    desk.ask("Sure?")
    assert sent(peer)[1] == ("assistant", "Green")


def test_settings_go_into_the_request_and_only_those_that_are_set(chat: ChatPage, peer: ChatPeer):
    chat.ask("Plain")
    assert set(peer.requests[-1]) == {"model", "messages", "stream", "stream_options", "return_progress"}
    chat.settings(System_prompt="Be brief.", Temperature="0.5", Top_k="40", Seed="7")
    chat.settings(Stop_at="END\nSTOP", Tools=json.dumps(TOOLS))
    chat.ask("Set")
    request = peer.requests[-1]
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (request["temperature"], request["top_k"], request["seed"]) == (0.5, 40, 7)
    assert request["stop"] == ["END", "STOP"] and request["tools"] == [{"type": "function", "function": TOOLS[0]}]
    assert "top_p" not in request
    chat.page.locator(".composer [data-action=settings]").click()
    chat.field("Tools").fill("[{]")
    chat.field("Tools").blur()
    assert "not JSON" in chat.page.locator("#settings").inner_text()
    chat.button("Keep for new conversations").click()
    chat.button("Close the settings").click()
    chat.page.keyboard.press("Control+Shift+O")
    chat.ask("New")
    assert peer.requests[-1]["temperature"] == 0.5 and len(peer.requests[-1]["messages"]) == 2


def test_the_model_is_chosen_and_stays(chat: ChatPage, peer: ChatPeer):
    assert chat.page.locator(".welcome-model").inner_text() == peer.models[0]["id"]
    chat.field("Model").select_option(peer.models[1]["id"])
    assert "8.2 G" in chat.page.locator(".welcome").inner_text()
    chat.reload()
    chat.ask("Hi")
    assert peer.requests[-1]["model"] == peer.models[1]["id"]


def test_thoughts_are_folded_and_given_back(chat: ChatPage, peer: ChatPeer):
    peer.say({"reasoning_content": "Let me see. "}, {"reasoning_content": "*Yes.*"}, "It is so.")
    assert chat.ask("Is it?") == "It is so."
    thoughts = chat.page.locator(".thoughts .prose")
    assert not thoughts.is_visible()
    chat.page.locator(".thoughts summary").click()
    assert thoughts.inner_text() == "Let me see. Yes."
    chat.ask("Sure?")
    assert peer.requests[-1]["messages"][1]["reasoning_content"] == "Let me see. *Yes.*"


def test_tool_calls_are_shown_and_take_results(chat: ChatPage, peer: ChatPeer):
    pieces = [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ('{"town": ', '"Ulm"}')]
    second = {"tool_calls": [{**CALL, "index": 1, "id": "call_2", "function": {"name": "time", "arguments": "{}"}}]}
    peer.say({"tool_calls": [CALL]}, *pieces, second, finish="tool_calls")
    chat.ask("Weather?")
    shown = chat.page.locator(".call").first.inner_text()
    assert "weather" in shown and '"town": "Ulm"' in shown
    chat.field("Result of weather").fill("fog")
    chat.field("Result of time").fill("noon")
    peer.say("Fog at noon.")
    chat.button("Send the results").click()
    assert chat.ended() == "Fog at noon."
    _, calls, *results = peer.requests[-1]["messages"]
    assert [call["function"]["arguments"] for call in calls["tool_calls"]] == ['{"town": "Ulm"}', "{}"]
    assert calls["content"] is None
    assert results == [
        {"role": "tool", "tool_call_id": "call_1", "content": "fog"},
        {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
    ]
    chat.page.locator(".call summary").first.click()
    assert "fog" in chat.page.locator(".call").first.inner_text()


def test_text_files_are_sent_within_fences_of_their_own(chat: ChatPage, peer: ChatPeer):
    files = [("a.md", b"```\ncode\n```\n"), ("b.txt", "ü".encode("utf-16")), ("c.png", b"\x89PNG\r\n\x1a\n\0")]
    uploads = [{"name": name, "mimeType": "text/plain", "buffer": content} for name, content in files]
    chat.page.locator("#file").set_input_files(uploads)
    assert chat.notices() == "c.png is not a text file."
    chat.ask("Read")
    assert sent(peer) == [("user", "a.md:\n````\n```\ncode\n```\n````\n\nb.txt:\n```\nü\n```\n\nRead")]
    assert chat.page.locator(".turn.user .files li").count() == 2


def test_tokens_rates_and_the_cache_are_shown(chat: ChatPage, peer: ChatPeer):
    peer.say({"prompt_progress": {"total": 100, "cache": 0, "processed": 45, "time_ms": 1}}, 0.4, "Done")
    chat.send("Count")
    chat.page.get_by_text("Reading the prompt 45 %").wait_for()
    chat.ended()
    counts = chat.page.locator(".counts").inner_text()
    assert counts.split("\n") == ["512 cached", "38 read 413/s", "212 written 41.3/s"]


def test_search_finds_titles_and_text(desk: ChatPage, peer: ChatPeer):
    for question, answer in (("Bread", "Flour and water"), ("Planes", "They fly")):
        peer.say(answer)
        desk.ask(question)
        desk.button("New conversation").click()
    assert desk.titles() == ["Planes", "Bread"]
    desk.page.keyboard.press("Control+k")
    desk.page.keyboard.type("WATER")
    assert desk.titles() == ["Bread"] and desk.page.locator("mark").inner_text() == "water"
    desk.page.keyboard.press("ArrowDown")
    desk.page.keyboard.press("Enter")
    assert desk.questions() == ["Bread"]
    desk.field("Search conversations").fill("nowhere")
    assert desk.titles() == [] and "Nothing found." in desk.page.locator("#list").inner_text()


def test_conversations_are_renamed_deleted_exported_and_imported(chat: ChatPage, peer: ChatPeer, tmp_path: Path):
    chat.settings(System_prompt="Be brief.", Temperature="0.5")
    chat.ask("Question")
    chat.button("Answer again").click()
    chat.ended()
    chat.menu("Rename")
    chat.page.locator("#question input").fill("Renamed")
    chat.button("Rename").click()
    with chat.page.expect_download() as download:
        chat.menu("Export")
    file = tmp_path / "export.json"
    download.value.save_as(file)
    assert json.loads(file.read_text("utf-8"))["conversations"][0]["title"] == "Renamed"
    chat.menu("Delete")
    chat.page.locator("#question").get_by_role("button", name="Delete").click()
    assert chat.questions() == []
    chat.reload()
    assert chat.titles() == []
    chat.page.locator(".composer [data-action=settings]").click()
    chat.page.locator("#settings input[type=file]").set_input_files(file)
    assert chat.notices() == "One conversation imported."
    chat.page.evaluate("document.querySelector('.row-button').click()")
    assert chat.questions() == ["Question"] and "2 / 2" in chat.page.locator(".turn.last").inner_text()
    assert "Renamed" in chat.page.title()
    chat.ask("More")
    assert peer.requests[-1]["temperature"] == 0.5 and sent(peer)[0] == ("system", "Be brief.")


def test_two_tabs_show_the_same(desk: ChatPage, peer: ChatPeer):
    desk.ask("Hi")
    other = desk.another_tab()
    assert other.questions() == ["Hi"]
    other.ask("Ho")
    desk.page.get_by_text("Echo: Ho").wait_for()
    other.menu("Delete")
    other.page.locator("#question").get_by_role("button", name="Delete").click()
    desk.page.get_by_text("No conversations yet.").wait_for()
    other.page.close()


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

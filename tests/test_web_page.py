"""The web chat as a page: by keyboard, with a screen reader, on a phone, in both themes, behind its content policy."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from tests.chat_peer import ChatPeer

if TYPE_CHECKING:
    from tests.chat_page import ChatPage

pytest_plugins = ["tests.chat_page"]
WEB = Path(__file__).resolve().parents[1] / "gguf_runtime" / "server" / "web"
LONG = "\n\n".join(f"Paragraph {n}, which says nothing." for n in range(60))
RICH = """# Head
Some **bold**, `code`, ~~gone~~, and a [link](https://example.org).

| a | b |
|---|--:|
| 1 | 2 |

- [x] done
- [ ] to do

> quoted

```python
# comment
def f(x: int) -> str:
    return "text" + str(x * 2.5)
```
"""
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}


def check(chat: ChatPage, state: str) -> None:
    """No violations that axe knows of."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    results = axe.Axe().run(chat.page)
    found = [f"{one['id']}: {one['nodes'][0]['html']}" for one in results.response["violations"]]
    assert found == [], state


def test_axe_finds_nothing_wrong(chat: ChatPage, peer: ChatPeer):
    on_phone = chat.page.viewport_size["width"] < 760
    chat.page.emulate_media(color_scheme="dark" if on_phone else "light")
    check(chat, "the first page")
    peer.say({"reasoning_content": "So."}, RICH, {"tool_calls": [CALL]}, finish="tool_calls")
    upload = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"}
    chat.page.locator("#file").set_input_files(upload)
    chat.ask("Question")
    chat.page.locator(".thoughts summary").click()
    chat.page.locator("#file").set_input_files([upload, {**upload, "buffer": b"\xff\0"}])
    peer.say("Part", {"error": {"message": "the engine died"}})
    chat.field("Result of weather").fill("fog")
    chat.button("Send the result").click()
    chat.ended()
    chat.button("Try again").click()
    chat.ended()
    chat.page.get_by_role("button", name="Edit the message").first.click()
    check(chat, "a conversation")
    chat.page.locator(".composer [data-action=settings]").click()
    check(chat, "the settings")
    chat.button("Close the settings").click()
    if on_phone:
        chat.button("Conversations").click()
        chat.field("Search conversations").fill("fog")
        check(chat, "the list")
    else:
        chat.menu("Delete")
        check(chat, "a question")
        chat.button("Cancel").click()


def test_all_can_be_done_by_keyboard(desk: ChatPage, peer: ChatPeer):
    press, kind = desk.page.keyboard.press, desk.page.keyboard.type
    assert desk.focused() == "Message"
    kind("One")
    press("Shift+Enter")
    kind("two")
    press("Enter")
    assert desk.ended() == "Echo: One\ntwo" and desk.focused() == "Message"
    press("ArrowUp")
    assert desk.focused() == "The message"
    press("Escape")
    assert desk.focused() == "Edit the message"
    press("Enter")
    kind("!")
    press("Control+Enter")
    assert desk.ended() == "Echo: One\ntwo!" and desk.focused() == "Message"
    desk.button("Answer again").focus()
    peer.say("slow", 0.5)
    press("Enter")
    assert desk.focused() == "Stop the answer"
    desk.ended()
    assert desk.focused() == "Message"
    desk.button("Earlier version").focus()
    press("Enter")
    assert desk.focused() == "Later version"
    press("Enter")
    assert desk.focused() == "Earlier version"
    peer.say("slow", 30)
    desk.send("Wait")
    press("Escape")
    assert desk.ended() == "" or desk.answer() == "slow"
    press("Control+Shift+o")
    assert desk.questions() == [] and desk.focused() == "Message"


def test_the_order_of_focus_begins_with_a_way_past_the_list(desk: ChatPage, peer: ChatPeer):
    desk.ask("Hi")
    desk.page.keyboard.press("Tab")  # what the keyboard moved is shown, what a script did not
    desk.page.locator(".skip").focus()
    seen = []
    for _ in range(9):
        seen.append(desk.focused())
        outline = desk.page.evaluate("getComputedStyle(document.activeElement).outline")
        assert " solid " in outline and " 0px" not in outline, seen[-1]
        desk.page.keyboard.press("Tab")
    assert seen == [
        "Skip to the message box", "New conversation", "Search conversations", "Hi", "Settings", "Switch to dark",
        "Rename, export or delete the conversation", "Conversation", "Copy the message",
    ]  # fmt: skip


def test_a_screen_reader_hears_of_an_answer_twice_not_with_each_word(desk: ChatPage, peer: ChatPeer):
    desk.page.evaluate("""() => {
        window.heard = [];
        const live = [...document.querySelectorAll('[role=status], [role=alert], [role=log], [aria-live]')];
        for (const region of live) new MutationObserver(() => heard.push(region.textContent))
            .observe(region, {childList: true, subtree: true, characterData: true});
        window.inside = live.some((region) => region.contains(document.getElementById('thread')));
    }""")
    peer.say(*["word "] * 40, 0.1, "**end**")
    desk.ask("Talk")
    assert desk.page.evaluate("window.inside") is False
    assert desk.page.evaluate("window.heard") == ["The answer is coming in.", f"Answer: {'word ' * 40}end"]
    peer.say(LONG)
    desk.ask("Talk on")
    assert desk.page.evaluate("window.heard.at(-1)") == "The answer is there, 300 words."


def test_on_a_phone_the_list_comes_over_the_page(phone: ChatPage, peer: ChatPeer):
    phone.ask("Hi")
    page = phone.page
    assert not page.locator("#sidebar").is_visible()
    phone.button("Conversations").click()
    assert phone.focused() == "Close the list" and page.evaluate("document.getElementById('page').inert")
    page.keyboard.press("Escape")
    assert phone.focused() == "Conversations" and page.evaluate("document.getElementById('sidebar').inert")
    phone.button("Conversations").click()
    page.locator("#scrim").click(position={"x": 380, "y": 400})
    phone.button("Conversations").click()
    page.locator(".row-button").click()
    assert not page.locator("#sidebar").is_visible()


def test_nothing_is_wider_than_the_screen_nor_too_small_to_touch(phone: ChatPage, peer: ChatPeer):
    peer.say(RICH + "\n```\n" + "x" * 400 + "\n```\n" + "|a|" * 40 + "\n" + "y" * 400)
    phone.ask("z" * 400)
    small = """() => [...document.querySelectorAll('button, select, summary')]
        .filter((each) => each.checkVisibility() && !each.closest('[inert]'))
        .map((each) => [each.ariaLabel ?? each.textContent, each.getBoundingClientRect()])
        .filter(([, box]) => box.height < 20 || box.width < 24).map(([name]) => name)"""
    for width in (320, 390, 700, 800, 390):
        phone.page.set_viewport_size({"width": width, "height": 844})
        assert phone.page.evaluate("document.documentElement.scrollWidth") == width
        assert phone.page.evaluate(small) == []


def test_the_end_is_followed_until_one_scrolls_up(desk: ChatPage, peer: ChatPeer):
    left = "((box) => box.scrollHeight - box.scrollTop - box.clientHeight)(document.getElementById('scroller'))"
    peer.say(LONG, 0.3, LONG, 0.6, LONG)
    desk.send("Much")
    desk.page.get_by_text("Paragraph 59").nth(1).wait_for()
    assert desk.page.evaluate(left) < 4
    desk.page.mouse.move(700, 300)
    desk.page.mouse.wheel(0, -900)
    desk.ended()
    assert desk.page.evaluate(left) > 900
    desk.page.get_by_role("button", name="Latest").click()
    assert desk.page.evaluate(left) < 4


def test_light_and_dark_follow_the_system_until_chosen(desk: ChatPage):
    def ground() -> str:
        return desk.page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = ground()
    desk.page.emulate_media(color_scheme="dark")
    dark = ground()
    desk.button("Switch to light").click()
    assert dark != light == ground()
    desk.reload()
    assert ground() == light
    desk.button("Switch to dark").click()
    desk.page.emulate_media(color_scheme="light")
    assert ground() == light


def test_nothing_moves_for_those_who_asked_for_that(desk: ChatPage, peer: ChatPeer):
    peer.say(30)
    desk.send("Wait")
    desk.page.get_by_text("Waiting").wait_for()
    assert desk.page.evaluate("document.getAnimations().length") == 0
    desk.page.emulate_media(reduced_motion="no-preference")
    assert desk.page.evaluate("document.getAnimations().length") > 0


def test_nothing_is_fetched_from_elsewhere_and_markup_is_refused(desk: ChatPage, peer: ChatPeer):
    asked: list[str] = []
    desk.page.on("request", lambda request: asked.append(request.url))
    desk.reload()
    desk.ask('<img src="https://example.org/x.png">![x](https://example.org/y.png)<script>x</script>')
    assert asked and all(url.startswith(peer.url) for url in asked)
    assert desk.page.locator(".turn img, .turn script").count() == 0
    with pytest.raises(Exception, match="TrustedHTML"):
        desk.page.evaluate("document.body.innerHTML = '<b>x</b>'")
    desk.problems.clear()


def test_the_scripts_take_no_markup_and_are_short():
    files = [*WEB.glob("*.js"), *WEB.glob("*.html")]
    assert len(files) > 10
    for file in files:
        text = file.read_text("utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://", " style="):
            assert word not in text or file.name == "inline.js" and word == "https://", (file.name, word)
        assert text.count("\n") <= 300, file.name


def test_files_are_sent_once_and_then_confirmed(peer: ChatPeer):
    def fetch(path: str, **headers: str) -> Any:
        try:
            return urllib.request.urlopen(urllib.request.Request(peer.url + path, headers=headers), timeout=10)
        except urllib.error.HTTPError as error:
            return error

    page = fetch("", Accept="text/html,*/*;q=0.8")
    policy = page.headers["Content-Security-Policy"]
    assert page.status == 200 and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "http" not in policy
    script = fetch("assets/app.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    again = fetch("assets/app.js", **{"If-None-Match": script.headers["ETag"]})
    assert again.status == 304 and again.read() == b""
    assert {fetch(f"assets/{name}").status for name in ("page.py", "../page.py", "%2e%2e%2fpage.py", "x.js")} == {404}

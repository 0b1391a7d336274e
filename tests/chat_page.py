"""The web chat in a real Chromium, as its users see it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.chat_peer import ChatPeer

SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1200, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
_EACH: dict[str, Any] = {"permissions": ["clipboard-read", "clipboard-write"]}
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_APPLICATIONS = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def chat_peer() -> Iterator[ChatPeer]:
    peer = ChatPeer()
    yield peer
    peer.close()


@pytest.fixture
def peer(chat_peer: ChatPeer) -> ChatPeer:
    chat_peer.reset()
    return chat_peer


@pytest.fixture(scope="module")
def tabs(browser: Any, chat_peer: ChatPeer) -> Callable[[str], ChatPage]:
    """A tab for each size, made once."""
    return cache(lambda size: ChatPage(browser.new_context(**SIZES[size], **_EACH), chat_peer.url))


@pytest.fixture(params=["desktop", "phone"])
def chat(request: pytest.FixtureRequest, tabs: Callable[[str], ChatPage], peer: ChatPeer) -> Iterator[ChatPage]:
    yield from _fresh(tabs(request.param))


@pytest.fixture
def desk(tabs: Callable[[str], ChatPage], peer: ChatPeer) -> Iterator[ChatPage]:
    yield from _fresh(tabs("desktop"))


@pytest.fixture
def phone(tabs: Callable[[str], ChatPage], peer: ChatPeer) -> Iterator[ChatPage]:
    yield from _fresh(tabs("phone"))


def _fresh(chat: ChatPage) -> Iterator[ChatPage]:
    chat.reset()
    yield chat
    assert chat.problems == []


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    found = [path for path in (*map(shutil.which, _NAMES), *_APPLICATIONS) if path and Path(path).exists()]
    if not found:
        pytest.skip("needs a Chromium")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=arguments)
        yield browser
        browser.close()


class ChatPage:
    """A tab with the chat. problems: errors of scripts, and what the content policy refused."""

    def __init__(self, context: Any, url: str) -> None:
        self.context, self.url, self.problems = context, url, list[str]()
        self.page = context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._take_console)
        self.open()

    def open(self, path: str = "") -> None:
        self.page.goto(self.url + path)
        self.ready()

    def reset(self) -> None:
        """As on the first visit: much quicker than another context."""
        session = self.context.new_cdp_session(self.page)
        storage = {"origin": self.url.rstrip("/"), "storageTypes": "indexeddb,local_storage"}
        session.send("Storage.clearDataForOrigin", storage)
        session.detach()
        self.page.emulate_media(color_scheme="light", reduced_motion="reduce")
        self.page.evaluate("history.replaceState(null, '', location.pathname)")
        self.problems.clear()
        self.reload()

    def ready(self) -> None:
        self.page.locator("#model option, dialog[open]").first.wait_for(state="attached")

    def reload(self) -> None:
        self.page.reload()
        self.ready()

    def _take_console(self, message: Any) -> None:
        if "Content Security Policy" in message.text or "trusted" in message.text.lower():
            self.problems.append(message.text)

    def another_tab(self) -> ChatPage:
        """With the same conversation."""
        other = ChatPage(self.context, self.url)
        other.open(self.page.url.removeprefix(self.url))
        other.reload()
        return other

    def button(self, name: str) -> Any:
        """The last button of that name: the message's that was written last."""
        return self.page.get_by_role("button", name=name, exact=True).last

    def field(self, label: str) -> Any:
        return self.page.get_by_label(label, exact=True)

    def send(self, text: str) -> None:
        self.field("Message").and_(self.page.locator("textarea")).fill(text)
        self.button("Send").click()

    def ask(self, text: str) -> str:
        """Sends a message, and gives the answer's text once it has ended."""
        self.send(text)
        return self.ended()

    def ended(self) -> str:
        self.page.locator(".turn.assistant.last:not(.running)").wait_for()
        return self.answer()

    def answer(self) -> str:
        return self.page.locator(".turn.assistant .body > .prose").last.inner_text().strip()

    def questions(self) -> list[str]:
        return self.page.locator(".turn.user .text").all_inner_texts()

    def settings(self, **fields: str) -> None:
        """Opens the sheet, fills fields by their labels (underscores for spaces), and closes it."""
        self.page.locator(".composer [data-action=settings]").click()
        for label, text in fields.items():
            self.field(label.replace("_", " ")).fill(text)
            self.field(label.replace("_", " ")).blur()
        self.button("Close the settings").click()

    def menu(self, action: str) -> None:
        self.page.locator("#more").click()
        self.page.locator(".menu").get_by_role("button", name=action).click()

    def titles(self) -> list[str]:
        return self.page.locator(".row-title").all_inner_texts()

    def notices(self) -> str:
        self.page.locator(".notice").first.wait_for()
        return " ".join(self.page.locator(".notice span").all_inner_texts())

    def focused(self) -> str:
        """The name of what has the focus."""
        name = "(({ariaLabel, textContent}) => ariaLabel ?? textContent.trim().slice(0, 80))(document.activeElement)"
        return self.page.evaluate(name)

    def wait(self, holds: Callable[[], Any]) -> None:
        """Until something outside the page holds."""
        for _ in range(500):
            if holds():
                return
            self.page.wait_for_timeout(10)
        raise TimeoutError("it never held")

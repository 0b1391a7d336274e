"""Rules of a grammar in llguidance's notation, as they are put together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from .schemas import ANY


class GrammarRules:
    """Names rules, and writes texts in which there may be special tokens."""

    def __init__(self, special: Mapping[str, int]) -> None:
        """special: ids of the tokens that are no text."""
        self._special = {text: id for text, id in special.items() if text}
        texts = sorted(self._special, key=len, reverse=True)
        self._tokens = re.compile(f"({'|'.join(map(re.escape, texts))})" if texts else r"((?!))")
        self._names: dict[str, str] = {}
        self._lines: list[str] = []

    def text(self, start: str) -> str:
        """The grammar."""
        return "\n".join([f"start: {start}", *self._lines])

    def add(self, body: str) -> str:
        """The name of a rule."""
        if body not in self._names:
            self._names[body] = name = self.reserve()
            self.define(name, body)
        return self._names[body]

    def reserve(self) -> str:
        """A name for a rule that is defined later."""
        self._lines.append("")
        return f"r{len(self._lines)}"

    def define(self, name: str, body: str) -> None:
        self._lines[int(name[1:]) - 1] = f"{name}: {body}"

    def is_special(self, text: str) -> bool:
        """Whether a text begins with a special token."""
        found = self._tokens.match(text)
        return bool(found and found[0])

    def literal(self, text: str) -> str:
        """A text, whose special tokens are tokens."""
        parts = [part for part in self._tokens.split(text) if part]
        return " ".join(f"<[{self._special[part]}]>" if part in self._special else json.dumps(part) for part in parts)

    def words(self, text: str) -> str:
        """A text as it is."""
        return json.dumps(text)

    def rest(self, first: str = "") -> str:
        """Any text, to the answer's end."""
        return f"/{first}{ANY}/"

    def up_to(self, end: str, inside: str = ANY) -> str:
        """Any text, or what a regular expression matches, up to this, and this."""
        if self.is_special(end):
            return f"/{inside}/ {self.literal(end)}"
        text, *tokens = (part for part in self._tokens.split(end) if part)
        name = self.reserve()
        self._lines[int(name[1:]) - 1] = f"{name}[lazy]: /{inside}{escaped(text)}/"
        return f"{name} {self.literal(''.join(tokens))}"


def escaped(text: str) -> str:
    """A text in a regular expression."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)

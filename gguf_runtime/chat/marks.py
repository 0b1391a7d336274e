"""Marks in what messages say, so that it never becomes control tokens, whatever a template makes of it.

A break (tokenizer.BREAK) is put behind the first character of whatever could begin a control token. The tokenizer
takes breaks away, but only after it has looked for special tokens. A template may move, trim or join marked text; it
cannot make a control token of it without spelling one itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..tokenizer import BREAK

_ROLES = ("system", "developer", "user", "assistant", "tool")  # which are compared with, and may be tokens


class Marks:
    """Puts breaks into texts."""

    def __init__(self, control: Iterable[str], whole: Iterable[str]) -> None:
        """control: the texts of control tokens. whole: texts to be left as they are where that is safe: a template
        looks for them, or they are tokens that anybody may write."""
        control = [text.strip() for text in control if len(text.strip()) > 1]
        starts = {text[0] for text in control}
        letters = {start for start in starts if start.isalnum()}  # too many to break at each
        signs = starts - letters
        beginnings = {text[:n] for text in control for n in range(1, len(text))}
        left = [
            f"(?<={re.escape(text[: i + 1])}){re.escape(text[i + 1 :])}"
            for text in whole
            if not any(token in text for token in control) and not any(text[i:] in beginnings for i in range(len(text)))
            for i in range(len(text))
            if text[i] in signs
        ]
        places = [f"{re.escape(text[0])}(?={re.escape(text[1:])})" for text in control if text[0] in letters]
        if signs:
            places.append(f"[{''.join(map(re.escape, sorted(signs)))}]" + (f"(?!{'|'.join(left)})" if left else ""))
        self._places = re.compile("|".join(places)) if places else None

    def __call__(self, value: Any) -> Any:
        """A copy of messages, or parts of one, with breaks in all texts."""
        if isinstance(value, Marked):
            return value
        if isinstance(value, str):
            return self._places.sub(lambda found: found[0] + BREAK, value) if self._places else value
        if isinstance(value, Mapping):
            return {self(key): item if key == "role" and item in _ROLES else self(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        return value


class Marked(str):
    """A text that has its marks already."""


def unmarked(text: str) -> str:
    """The text as it reads."""
    return text.replace(BREAK, "")


class Rendered(str):
    """A conversation as text. marked: the same with marks, for the tokenizer."""

    marked: str

    def __new__(cls, marked: str) -> Rendered:
        self = super().__new__(cls, unmarked(marked))
        self.marked = marked
        return self

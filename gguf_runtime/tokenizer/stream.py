"""Text from tokens as they come."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Container


class StreamDecoder:
    """Gives text as soon as its bytes are whole characters; U+FFFD only for bytes that can never become one."""

    def __init__(self, token_bytes: Callable[[int], bytes], hidden: Container[int] = ()) -> None:
        """hidden: tokens that give no text."""
        self._token_bytes, self._hidden = token_bytes, hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that is certain now that this token has come."""
        return "" if id in self._hidden else self._utf8.decode(self._token_bytes(id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD if that is part of a character. Ready for another text afterwards."""
        return self._utf8.decode(b"", final=True)

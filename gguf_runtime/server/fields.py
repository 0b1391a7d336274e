"""A body's fields, read strictly: null is as good as absent, what is not known is ignored, a wrong type is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .vocabulary import Failure

_BIG = 1 << 53  # JSON's numbers are exact up to here
_SHOWN = 40  # characters of a wrong text


class Fields:
    """Reads an object of a request's body. name: what it is called there, "" for the body itself.

    All methods take several names for one thing, the first that is there counting, and raise Failure with its name.
    """

    def __init__(self, body: Mapping[str, Any], name: str = "") -> None:
        self.body, self._name = body, name

    def __contains__(self, name: str) -> bool:
        return self.body.get(name) is not None

    def any(self, *names: str) -> Any:
        """The value, whatever its type; None where there is none."""
        return next((value for name in names if (value := self.body.get(name)) is not None), None)

    def text(self, *names: str) -> str | None:
        return self._typed(names, str, "text")

    def flag(self, *names: str) -> bool | None:
        return self._typed(names, bool, "true or false")

    def object(self, *names: str) -> dict[str, Any] | None:
        return self._typed(names, dict, "an object")

    def array(self, *names: str) -> list[Any] | None:
        return self._typed(names, list, "a list")

    def whole(self, *names: str, least: int = -_BIG, most: int = _BIG) -> int | None:
        """A whole number, also one that is written as 40.0."""
        name, value = self._find(names)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "a whole number", value)
        if abs(value) > _BIG and most == _BIG:
            message = f"{self._full(name)} is not a sensible number: it is beyond 2^53"
            raise Failure("invalid", message, field=self._full(name))
        if not least <= value <= most:
            bounds = f"{least} or more" if most == _BIG else f"from {least} to {most}"
            raise Failure("invalid", f"{self._full(name)} must be {bounds}, not {value}", field=self._full(name))
        return value

    def real(self, *names: str) -> float | None:
        name, value = self._find(names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number", value)
        try:
            return float(value)
        except OverflowError:
            raise Failure("invalid", f"{self._full(name)} is too large", field=self._full(name)) from None

    def texts(self, *names: str) -> list[str] | None:
        """A list of texts, or one text."""
        name, value = self._find(names)
        if value is None:
            return None
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self.wrong(name, "text or a list of texts", value)
        return texts

    def objects(self, *names: str) -> list[Fields]:
        """A list of objects; an empty one where there is none."""
        name, values = self._find(names)
        if values is None:
            return []
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.wrong(name, "a list of objects", values)
        return [Fields(value, f"{self._full(name)}[{i}]") for i, value in enumerate(values)]

    def within(self, name: str) -> Fields | None:
        """The object of this name."""
        value = self.object(name)
        return None if value is None else Fields(value, self._full(name))

    def required(self, value: Any, name: str) -> Any:
        """The value, which has to be there."""
        if value is None:
            raise Failure("invalid", f"{self._full(name)} is missing", field=self._full(name))
        return value

    def wrong(self, name: str, wanted: str, value: Any) -> Failure:
        """What to raise for a value of another type, or a text that is none of those that are known."""
        kinds = {
            "bool": "true or false", "dict": "an object", "list": "a list", "float": "a number",
            "int": "a whole number", "NoneType": "null",
        }  # fmt: skip
        found = kinds.get(type(value).__name__, type(value).__name__)
        if isinstance(value, str):
            found = repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
        elif isinstance(value, list) and "list" in wanted:
            found = "a list of something else"
        return Failure("invalid", f"{self._full(name)} must be {wanted}, not {found}", field=self._full(name))

    def _typed(self, names: tuple[str, ...], kind: type, wanted: str) -> Any:
        name, value = self._find(names)
        if value is None or isinstance(value, kind):
            return value
        raise self.wrong(name, wanted, value)

    def _find(self, names: tuple[str, ...]) -> tuple[str, Any]:
        return next(self._present(names), (names[0], None))

    def _present(self, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        return ((name, self.body[name]) for name in names if self.body.get(name) is not None)

    def _full(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name


def plain(value: Any) -> Any:
    """The text of an object that stands for one in llama-server's prompts; all else as it is. Raises Failure for one
    with pictures or sounds."""
    if not isinstance(value, dict):
        return value
    if value.get("multimodal_data"):
        raise Failure("invalid", "multimodal_data: the model reads text only")
    parts = value.get("content")
    if isinstance(parts, list) and parts:
        return "".join(_part(part) for part in parts)
    return value.get("prompt_string")


def _part(part: Any) -> str:
    """The text of a part of a message. Raises Failure."""
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise Failure("invalid", 'content: a part must be {"type": "text", "text": …}: the model reads text only')

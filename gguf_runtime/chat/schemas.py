"""What a tool's schema says of the values of its arguments, where a format writes text that is not JSON."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

ANY = "(?s:.*)"  # text, as a regular expression
_NAMES = {"True": True, "False": False, "None": None}
_MAX_DEPTH = 20  # of references
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


class Schema:
    """A schema, and the one that it is part of, to which its references point."""

    def __init__(self, schema: Any, root: Any = None, depth: int = 0) -> None:
        self._root, self._depth = schema if root is None else root, depth
        self._schema: Mapping[str, Any] = schema if isinstance(schema, Mapping) else {}
        reference = self._schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#") and depth < _MAX_DEPTH:
            target: Any = self._root
            for name in reference[1:].split("/")[1:]:
                target = target.get(name, {}) if isinstance(target, Mapping) else {}
            self._schema = Schema(target, self._root, depth + 1)._schema

    @property
    def properties(self) -> Mapping[str, Any]:
        found = self._schema.get("properties")
        return found if isinstance(found, Mapping) else {}

    @property
    def required(self) -> set[str]:
        """The keys that an object has to have."""
        found = self._schema.get("required")
        return {key for key in found if isinstance(key, str)} if isinstance(found, list) else set()

    @property
    def identity(self) -> int:
        """The same for the same part of a schema."""
        return id(self._schema)

    @property
    def whole(self) -> Any:
        """The schema by itself, with what its references point to."""
        if self._schema is self._root or not isinstance(self._root, Mapping):
            return self._schema
        shared = {key: self._root[key] for key in ("$defs", "definitions") if key in self._root}
        return {**shared, **self._schema}

    def only(self, kind: str) -> Schema:
        """The schema of values of one kind, or of all but texts for "other"."""
        kinds = sorted(self.kinds - {"string"}) if kind == "other" else [kind]
        for name in ("anyOf", "oneOf"):
            if isinstance(parts := self._schema.get(name), list):
                fitting = [part for part in parts if self._part(part).kinds & set(kinds)]
                return self._part({**self._schema, name: fitting})
        more = {"enum": [v for v in self._schema["enum"] if not isinstance(v, str)]} if "enum" in self._schema else {}
        return self._part({**self._schema, "type": kinds, **more})

    @property
    def texts(self) -> list[str] | None:
        """The texts that a value may be, where they are named."""
        found = self._schema.get("enum", [self._schema["const"]] if "const" in self._schema else None)
        return [text for text in found if isinstance(text, str)] if isinstance(found, list) else None

    @property
    def length(self) -> str:
        """How long a text may be, as regular expressions count; "" where there is more to it than that."""
        if self.texts is not None or "pattern" in self._schema or "format" in self._schema:
            return ""
        low, high = (self._schema.get(key) for key in ("minLength", "maxLength"))
        return "*" if low is None and high is None else f"{{{low or 0},{'' if high is None else high}}}"

    @property
    def pattern(self) -> str:
        """A regular expression of the texts that a value may be."""
        pattern = self._schema.get("pattern")
        if not isinstance(pattern, str):
            return f"(?s:.{self.length or '*'})"
        inside = pattern.removeprefix("^").removesuffix("$").replace("/", r"\/")
        before, after = ("" if pattern.startswith("^") else ANY), ("" if pattern.endswith("$") else ANY)
        return f"{before}({inside}){after}"

    def of_key(self, key: str) -> Schema:
        """That of the value of a key."""
        more = self._schema.get("additionalProperties")
        return self._part(self.properties.get(key, more if isinstance(more, Mapping) else {}))

    @property
    def items(self) -> Schema:
        """That of the items of a list."""
        return self._part(self._schema.get("items", {}))

    @property
    def kinds(self) -> set[str]:
        """The types that values may have; empty where it does not say."""
        if self._depth >= _MAX_DEPTH:
            return set()
        kinds = self._schema.get("type")
        if isinstance(kinds, str):
            return {kinds} | ({"null"} if self._schema.get("nullable") is True else set())
        if isinstance(kinds, list):
            return set(filter(lambda kind: isinstance(kind, str), kinds))
        values = self._schema.get("enum") or ([self._schema["const"]] if "const" in self._schema else None)
        if isinstance(values, list):
            return {_TYPES.get(type(value), "null") for value in values}
        for name in ("anyOf", "oneOf", "allOf"):
            if isinstance(parts := self._schema.get(name), list):
                found = [self._part(part).kinds for part in parts]
                return set().union(*found) if all(found) else set()
        return {"object"} if self.properties else set()

    @property
    def is_text(self) -> bool:
        """Whether all values are texts."""
        return self.kinds == {"string"}

    def read(self, text: str) -> str:
        """The JSON of a value that was written as it is where it is a text, and as JSON, or as Python has it, else."""
        kinds = self.kinds
        if kinds == {"string"}:
            return json.dumps(text, ensure_ascii=False)
        stripped = text.strip()
        try:
            if not stripped and kinds & {"object", "array"}:
                return "{}" if "object" in kinds else "[]"
            value = _parsed(stripped)
            if not _is_text(value, kinds):
                return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            pass
        return json.dumps(text, ensure_ascii=False)

    def _part(self, schema: Any) -> Schema:
        return Schema(schema, self._root, self._depth + 1)


def _is_text(value: Any, kinds: set[str]) -> bool:
    """Whether what reads like this value can only be meant as a text, where values are of these kinds."""
    if not kinds:
        return isinstance(value, str)
    kind = _TYPES.get(type(value), "null")
    return "string" in kinds and (kind == "string" or not kinds & {kind, "number" if kind == "integer" else kind})


def _parsed(text: str) -> Any:
    if text in _NAMES:
        return _NAMES[text]
    try:
        return json.loads(text)
    except ValueError:
        if text[:1] not in ("{", "[") or len(text) > 1 << 16:
            raise
        return ast.literal_eval(text)

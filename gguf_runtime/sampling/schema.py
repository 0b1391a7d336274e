"""JSON schemas as pydantic, schemars and OpenAPI write them, in the dialect that llguidance takes.

What llguidance does not know is written in what it does know, where every answer is then still valid; what only notes
something is left out; and what no answer could be held to is told by its name, its place, and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Schema = dict[str, Any]
Warn = Callable[[str], None]

_EXACT = 1 << 53  # llguidance keeps numbers as floats
#: Keywords with schemas in them: by name, in a list, or one.
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "schemas")
_IN_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems", "components")
_NOTES = ("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
#: What keywords speak of: where there is no type, they mean it.
_MEANT = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"},
    "array": {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"pattern", "minLength", "maxLength", "format", "contentMediaType", "contentEncoding", "contentSchema"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
_TYPES = (*_MEANT, "integer", "boolean", "null")
_ELSEWHERE = {"allOf", "anyOf", "oneOf", "enum", "const", "$ref"}  # say themselves what is meant
_OTHERS = {
    *_ELSEWHERE, "type", "nullable", "$schema", "$vocabulary", "$id", "id", "$anchor", "$dynamicAnchor", "$defs",
    "definitions", "schemas", "components", "discriminator", "xml", "externalDocs", "strict", "propertyOrdering",
}  # fmt: skip
#: Formats that llguidance knows, and how long a text of them may be, which has to end with the smallest model too.
_LENGTHS = {
    "date-time": 40, "date": 10, "time": 30, "duration": 30, "email": 64, "hostname": 64, "uri": 128, "ipv4": 15,
    "ipv6": 45, "uuid": 36,
}  # fmt: skip
_ALIKE = {
    "idn-email": "email", "idn-hostname": "hostname", "iri": "uri", "uri-reference": "uri", "iri-reference": "uri",
    "url": "uri",
}  # fmt: skip
_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-@[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"  # @: the version
_UUIDS = {f"uuid{n}": _UUID.replace("@", str(n)) for n in range(1, 9)}
_HINTS = {
    "uniqueItems": "leave it out, and check the answer for doubles",
    "not": "say what is allowed instead, with enum, pattern or anyOf",
    "if": "write the cases as anyOf", "then": "write the cases as anyOf", "else": "write the cases as anyOf",
    "contains": "use prefixItems for items of a fixed place, or leave it out and check the answer",
    "minContains": "leave it out, and check the answer", "maxContains": "leave it out, and check the answer",
    "propertyNames": "use patternProperties with additionalProperties: false",
    "dependentRequired": "write the cases as anyOf, each with its required",
    "dependentSchemas": "write the cases as anyOf", "dependencies": "write the cases as anyOf",
    "unevaluatedProperties": "use additionalProperties in each object", "unevaluatedItems": "use items: false",
    "$dynamicRef": "use $ref",
}  # fmt: skip
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")


class Unsupported(ValueError):
    """The schema asks for what no answer can be held to."""


def prepared(schema: Any, warn: Warn) -> Schema:
    """The schema for llguidance; warn is told what answers will not be held to. Raises Unsupported."""
    whole = _Preparation(warn).schema(schema, "#")
    if whole is False:
        raise Unsupported("it allows nothing")
    return {} if whole is True else whole


class _Preparation:
    def __init__(self, warn: Warn) -> None:
        self._warn = warn

    def schema(self, schema: Any, at: str) -> Any:
        """A schema, at this place, and those in it."""
        if isinstance(schema, bool) or not isinstance(schema, Mapping):
            return schema
        new: Schema = {key: value for key, value in schema.items() if key not in _NOTES}
        for key in [key for key, value in new.items() if value is None and key != "const"]:
            del new[key]  # as programs write what they have not set
        for key, hint in _HINTS.items():
            if new.get(key) is False and key == "uniqueItems":
                del new[key]
            elif key in new:
                raise Unsupported(f"{key} (at {at}) is more than an answer can be held to: {hint}")
        if _LOOK_AROUND.search(str(new.get("pattern", ""))):
            raise Unsupported(f"the pattern (at {at}) looks ahead or behind: write it without (?= (?! (?<= (?<!")
        if isinstance(new.get("items"), list):  # before 2020
            new["prefixItems"] = new.pop("items")
            if "additionalItems" in new:
                new["items"] = new.pop("additionalItems")
        self._set_type(new, at)
        _set_bounds(new)
        self._set_format(new, at)
        self._inside(new, at)
        if new.pop("nullable", False):  # OpenAPI 3.0
            return {"anyOf": [new, {"type": "null"}]}
        return new

    def _inside(self, new: Schema, at: str) -> None:
        for key in _BY_NAME:
            if isinstance(new.get(key), Mapping):
                new[key] = {name: self.schema(value, f"{at}/{key}/{name}") for name, value in new[key].items()}
        for key in _IN_LISTS:
            if isinstance(new.get(key), list):
                new[key] = [self.schema(value, f"{at}/{key}/{i}") for i, value in enumerate(new[key])]
        for key in _SINGLE:
            if key in new:
                new[key] = self.schema(new[key], f"{at}/{key}")

    def _set_type(self, new: Schema, at: str) -> None:
        """The type that is meant where there is none."""
        kinds = new.get("type", [])
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if kind not in _TYPES:
                raise Unsupported(f"the type {kind!r} (at {at}) is none of {', '.join(_TYPES)}")
        for key in new.keys() - _OTHERS.union(*_MEANT.values()):
            if not key.startswith("x-"):
                self._warn(f"{key} (at {at}) is no keyword that is known, and has no effect")
        meant = [kind for kind, keywords in _MEANT.items() if keywords & new.keys()]
        if "type" not in new and len(meant) == 1 and not _ELSEWHERE & new.keys():
            new["type"] = meant[0]

    def _set_format(self, new: Schema, at: str) -> None:
        """A format that is known, and a length at which its text ends."""
        name = new.pop("format", None)
        kinds = new.get("type", "string")
        if name is None or "string" not in (kinds if isinstance(kinds, list) else [kinds]):  # int64 and the like: notes
            return
        name = _ALIKE.get(str(name), name)
        if name in _UUIDS:
            new.setdefault("pattern", _UUIDS[name])
        elif name not in _LENGTHS:
            self._warn(f"the format {name!r} (at {at}) is not known: any text is taken for one")
        else:
            new["format"] = name
            new.setdefault("maxLength", max(_LENGTHS[name], new.get("minLength", 0)))


def _set_bounds(new: Schema) -> None:
    """Bounds of numbers as the newest drafts write them, and none beyond what is exact; whole numbers always have them,
    or their digits need never end."""
    kinds = new.get("type")
    if (kinds == "integer" or "integer" in (kinds or ())) and "number" not in (kinds or ()):
        if not {"minimum", "exclusiveMinimum"} & set(new):
            new["minimum"] = -_EXACT
        if not {"maximum", "exclusiveMaximum"} & set(new):
            new["maximum"] = _EXACT
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if new.get(exclusive) is True and bound in new:  # up to draft 4, and OpenAPI 3.0
            new[exclusive] = new.pop(bound)
        elif isinstance(new.get(exclusive), bool):
            del new[exclusive]
        sign = 1 if bound == "maximum" else -1
        for key in (bound, exclusive):
            if isinstance(new.get(key), int | float) and sign * new[key] > _EXACT:
                del new[key]
                new[bound] = sign * _EXACT
